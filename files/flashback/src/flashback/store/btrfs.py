"""Snapshots as btrfs subvolumes: each begins as a snapshot of the newest, and rsync changes what differs.

A snapshot of a subvolume shares everything with it and yet is a tree of its own: changing
an inode in one never shows in the other.  So a fill may go on where an interrupted one
ended, and large files are changed in place, which keeps their unchanged blocks shared.

Two runs of rsync fill a snapshot.  The first changes large files in place, but only those
with a single name: a file whose two names the client has parted would be overwritten by
both in turn.  The second, without writing in place, brings all the rest and deletes.

The sacred rule: a complete snapshot is read-only; nothing is filled but `incoming`.

Whoever deletes a subvolume must be root, unless the file system is mounted with
user_subvol_rm_allowed.  Without it the tree is emptied, which takes longer.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flashback import below, process
from flashback.errors import FlashbackError
from flashback.listing import Comparison
from flashback.model import Destination, Job, Pulse, Snapshot
from flashback.store import Fill
from flashback.store.moving import clear
from flashback.store.trees import (
    INCOMING,
    LONG,
    Trees,
    as_pattern,
    by_name,
    drop_unsynced,
    note_synced,
    remove_trees,
    sync_directory,
    synced_before,
)

# Where rsync keeps a file whose transfer was interrupted: in the subvolume, for nothing can be renamed out
# of it. No source has a folder of this name at its top.
UNFINISHED = ".flashback-unfinished-b94f1c6e"
# Below this size writing a file anew costs less than finding out what changed in it, in bytes.
LARGE = 16 << 20
# List of the large files that must not be changed in place; beside `incoming`, so that any name can be in it.
SEVERAL_NAMES = "incoming.several-names"
# The two runs of rsync. The first touches no folder and deletes nothing.
IN_PLACE = (
    "--existing", "--inplace", "--no-whole-file", f"--min-size={LARGE}", "--no-hard-links",
    "--omit-dir-times",
)  # fmt: skip
# Lists of what a fill has still to fetch.
NAMES = "incoming.names"
LARGE_NAMES = "incoming.large"
REST = ("--delete", "--delete-excluded", f"--filter=P /{UNFINISHED}")
# Seconds that cleaning may take, and how many looks in a row must see the same.
CLEANING = 120.0
STILL = 3
# Seconds after which a commit must have come (mount option commit=30).
COMMIT = 40.0
# Number of the inode at the top of every subvolume.
TOP_INODE = 256


class BtrfsStore(Trees):
    """Subvolumes that share blocks."""

    kind = "btrfs"
    changes_folders = True

    def begin(self, job: Job, pulse: Pulse, *, beside: Snapshot | None = None) -> Fill:
        """Return a writable snapshot of the newest or of `beside`, or what an interrupted fill left."""
        where = self._make_label(job)
        snapshots = self.snapshots(job)
        newest = snapshots[-1] if snapshots else None
        continued = (where / INCOMING).is_dir()
        if continued:
            # An interrupted commit may have made it read-only already.
            _read_only(where / INCOMING, False)
            drop_unsynced(where / INCOMING, synced_before(where), where / INCOMING / UNFINISHED, pulse)
        else:
            self._make_incoming(where, beside or newest, pulse)
        _list_several_names(where, pulse)
        rest = (*REST, f"--partial-dir={where / INCOMING / UNFINISHED}")
        in_place = (*IN_PLACE, "--from0", f"--exclude-from={SEVERAL_NAMES}")
        passes = (in_place, rest) if newest is not None or beside is not None else (rest,)
        fill = Fill(job, Destination(where, INCOMING, passes), newest, continued)
        self.checkpoint(fill, pulse)
        return fill

    def can_begin_from(self, job: Job) -> bool:
        """Return whether there is a snapshot, a copy of which costs nothing, and no fill to be continued."""
        return bool(self.snapshots(job)) and not (self._label(job) / INCOMING).is_dir()

    def begin_from(self, job: Job, comparison: Comparison, pulse: Pulse) -> Fill:
        """Return a writable snapshot of the newest without what is gone, parted or of another kind."""
        where = self._make_label(job)
        newest = self.snapshots(job)[-1]
        self._make_incoming(where, newest, pulse)
        tree = where / INCOMING
        clear(tree, _in_the_way(comparison))
        large = _to_change_in_place(tree, comparison)
        passes: list[tuple[str, ...]] = []
        common = ("--ignore-missing-args",)
        if large:
            passes.append((*common, *IN_PLACE, *by_name(where / LARGE_NAMES, large)))
        if comparison.new:
            names = by_name(where / NAMES, comparison.new)
            passes.append((*common, f"--partial-dir={tree / UNFINISHED}", *names))
        return Fill(job, Destination(where, INCOMING, tuple(passes), selected=True), newest)

    def begin_copy(self, job: Job, original: Snapshot, pulse: Pulse) -> Fill:
        """Return a fill that is a snapshot of `original`."""
        where = self._make_label(job)
        if (where / INCOMING).is_dir():
            self._remove(where, [INCOMING], pulse)
        snapshots = self.snapshots(job)
        self._make_incoming(where, original, pulse)
        return Fill(job, Destination(where, INCOMING, ()), snapshots[-1] if snapshots else None)

    def settle(self, pulse: Pulse) -> None:
        """Wait until the cleaner of btrfs has given back what was deleted.

        It begins with the next commit of the file system, half a minute apart by default: so first the free
        space has to grow, then to stand still.
        """
        begun, still = time.monotonic(), 0
        first = before = os.statvfs(self._root).f_bavail
        while still < STILL and time.monotonic() - begun < CLEANING:
            pulse()
            time.sleep(0.5)
            free = os.statvfs(self._root).f_bavail
            waited = time.monotonic() - begun > COMMIT
            still = still + 1 if free == before and (free > first or waited) else 0
            before = free

    def _make_incoming(self, where: Path, base: Snapshot | None, pulse: Pulse) -> None:
        if base is not None and _is_subvolume(base.path):
            # All that it will hold is on the disk.
            note_synced(where)
            _btrfs(["subvolume", "snapshot", str(base.path), INCOMING], where, pulse)
            return
        # Filled under another name: `incoming` is only ever a tree that may be continued.
        fresh = f"{INCOMING}.new"
        if (where / fresh).is_dir():
            self._remove(where, [fresh], pulse)
        _btrfs(["subvolume", "create", fresh], where, pulse)
        if base is not None:
            argv = ["cp", "-a", "--reflink=auto", "--no-target-directory", "--", str(base.path), fresh]
            done = process.run(process.tied(argv), cwd=where, pulse=pulse, timeout=LONG)
            if done.code != 0:
                raise FlashbackError(f"{base.path} cannot be copied: {' '.join(done.stderr.split())[-300:]}")
        (where / fresh).rename(where / INCOMING)
        sync_directory(where)

    def tidy(self, tree: Path) -> None:
        """Remove the files whose transfer was interrupted."""
        if (tree / UNFINISHED).is_dir():
            times = tree.stat()
            remove_trees(tree, [UNFINISHED], process.no_pulse)
            os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _seal(self, tree: Path) -> None:
        self.tidy(tree)
        _read_only(tree, True)

    def _remove(self, where: Path, gone: Sequence[str], pulse: Pulse) -> None:
        for name in gone:
            tree = where / name
            if _is_subvolume(tree):
                argv = ["nice", "-n", "19", "ionice", "-c", "3", "btrfs", "subvolume", "delete", name]
                if process.run(argv, cwd=where, pulse=pulse, timeout=LONG).code == 0:
                    continue
                # Not allowed: an emptied subvolume may be removed like any directory.
                _read_only(tree, False)
            remove_trees(where, [name], pulse)

    @contextlib.contextmanager
    def _opened(self, snapshot: Snapshot) -> Iterator[None]:
        was_read_only = _is_subvolume(snapshot.path) and not os.access(snapshot.path, os.W_OK)
        if was_read_only:
            _read_only(snapshot.path, False)
        try:
            yield
        finally:
            if was_read_only:
                _read_only(snapshot.path, True)

    def _bring(self, healed: Path, fresh: Path) -> None:
        argv = ["cp", "-a", "--reflink=auto", "--no-target-directory", "--", str(healed), str(fresh)]
        done = process.run(argv, timeout=LONG)
        if done.code != 0:
            raise FlashbackError(f"{healed} cannot be copied: {' '.join(done.stderr.split())[-300:]}")


def _btrfs(words: list[str], where: Path, pulse: Pulse) -> None:
    done = process.run(["btrfs", *words], cwd=where, pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise FlashbackError(
            f"`btrfs {' '.join(words[:2])}` failed in {where}: {' '.join(done.stderr.split())[-300:]}",
            "Is btrfs-progs installed, and may the engine make subvolumes there?",
        )


def _is_subvolume(tree: Path) -> bool:
    try:
        return tree.lstat().st_ino == TOP_INODE
    except FileNotFoundError:
        return False


def _read_only(tree: Path, wanted: bool) -> None:
    word = "true" if wanted else "false"
    done = process.run(["btrfs", "property", "set", "-ts", str(tree), "ro", word], timeout=LONG)
    if done.code != 0 and wanted:
        raise FlashbackError(f"{tree} cannot be made read-only: {' '.join(done.stderr.split())[-300:]}")


def _list_several_names(where: Path, pulse: Pulse) -> None:
    """Write down, as exact patterns, the large files of `incoming` that have more than one name."""
    found = []
    for path, status in below.entries(where / INCOMING, pulse):
        if status.st_nlink > 1 and status.st_size >= LARGE and stat.S_ISREG(status.st_mode):
            found.append(b"/" + as_pattern(path))
    (where / SEVERAL_NAMES).write_bytes(b"\0".join(found))


def _in_the_way(comparison: Comparison) -> Iterator[bytes]:
    """Yield what is gone, has become another kind of entry, or shares an inode that it must not share."""
    for name, item in comparison.old.items():
        now = comparison.new.get(name)
        if now is None or now.kind != item.kind or name in comparison.anew:
            yield name


def _to_change_in_place(tree: Path, comparison: Comparison) -> list[bytes]:
    """Return the large files with a single name whose content differs."""
    found = []
    with below.opened(tree) as top:
        for name, item in comparison.new.items():
            was = comparison.old.get(name)
            if item.kind == "f" and item.size >= LARGE and was is not None and was.content != item.content:
                status = below.status_of(top, name)
                if status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    found.append(name)
    return found
