"""Snapshots as plain trees that share unchanged files by hard links (ext4, xfs and others).

    HOST/VOLUME/LABEL/incoming.N/        left by interrupted fills, linked from, never written to
    HOST/VOLUME/LABEL/incoming.joining/  prepared tree into which is moved what was fetched

Not all of a tree need be fetched: between the backups a copy of the newest snapshot is made ready,
from an expired one that is brought up to date where it differs.  Then only what changed at
the client is fetched, and joined with the copy.

This module decides nothing about when or what: it prepares, links and deletes.

The sacred rule: no inode that a complete snapshot holds is ever modified.  Therefore
whatever a client sends goes into an empty tree.  To continue an interrupted one by filling it
further would let rsync change a mode or owner in place, on an inode that older snapshots hold
too.  So the interrupted tree is moved aside and linked from, like a snapshot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flashback import below, process, transfer
from flashback.errors import FlashbackError
from flashback.listing import Comparison, folder_of
from flashback.model import Destination, Job, Pulse, Snapshot
from flashback.shelf import IDLE, Shelf
from flashback.store import Fill
from flashback.store.moving import clear, join, times_kept
from flashback.store.trees import (
    EXPIRED,
    INCOMING,
    LONG,
    PARTIAL,
    PREPARED,
    PREPARING,
    Trees,
    by_name,
    drop_unsynced,
    names,
    note_synced,
    remove_trees,
    sync,
    sync_directory,
    synced_before,
    time_options,
)

# rsync takes 20 --link-dest; every further one costs a lookup per file on a slow disk.
LEFTOVERS = 8
JOINING = f"{INCOMING}.joining"
# Lists of what a fill has still to fetch.
NAMES = "incoming.names"
PARTED = "incoming.parted"
# Looking for holes takes rsync a system call for each KiB. It is not done where no more bytes than this
# could be saved.
FEW_HOLES = 32 << 20
# A spare tree in which more entries differ is deleted instead.
RECYCLED = 100_000


class HardlinkStore(Trees):
    """Trees that share files by hard links."""

    kind = "hardlink"
    changes_folders = False

    def begin(self, job: Job, pulse: Pulse, *, beside: Snapshot | None = None) -> Fill:
        """Return an empty directory to fill; what an interrupted run left is linked from."""
        where = self._make_label(job)
        newest, bases = self._bases(where, job, pulse)
        (where / INCOMING).mkdir(mode=0o700)
        also = () if beside is None else (f"--link-dest={beside.path}",)
        options = (*bases, *also, f"--partial-dir={where / PARTIAL}")
        fill = Fill(job, Destination(where, INCOMING, (options,)), newest, continued=_continues(bases))
        self.checkpoint(fill, pulse)
        return fill

    def can_begin_from(self, job: Job) -> bool:
        """Return whether a tree like the newest snapshot was prepared."""
        snapshots = self.snapshots(job)
        return bool(snapshots) and (self._label(job) / f"{PREPARED}{snapshots[-1].name}").is_dir()

    def begin_from(self, job: Job, comparison: Comparison, pulse: Pulse) -> Fill:
        """Return an empty directory to fill with what differs, which `join` makes whole.

        What the client has parted is fetched without looking at the newest snapshot, where it is still one
        file.
        """
        where = self._make_label(job)
        newest, bases = self._bases(where, job, pulse)
        assert newest is not None  # noqa: S101 - `can_begin_from` has looked
        (where / INCOMING).mkdir(mode=0o700)
        sparse = () if _possible_holes(newest.path, comparison) > FEW_HOLES else ("--no-sparse",)
        common = ("--ignore-missing-args", f"--partial-dir={where / PARTIAL}", *sparse)
        passes: list[tuple[str, ...]] = []
        for name, wanted, options in (
            (NAMES, comparison.new.keys() - comparison.anew, bases),
            (PARTED, comparison.anew and comparison.with_folders(comparison.anew), time_options(where)),
        ):
            if wanted:
                passes.append((*common, *options, *by_name(where / name, wanted)))
        note_synced(where)
        destination = Destination(where, INCOMING, tuple(passes), selected=True)
        return Fill(job, destination, newest, continued=_continues(bases))

    def join(self, fill: Fill, comparison: Comparison) -> None:
        """Move what was fetched into the prepared tree, in place of all that differs there.

        Only names that were asked for are taken over, whatever else the client may have sent.
        """
        where = fill.destination.where
        assert fill.newest is not None  # noqa: S101 - `can_begin_from` has looked
        (where / f"{PREPARED}{fill.newest.name}").rename(where / JOINING)
        with times_kept(where / JOINING, comparison.folders_as_they_were()):
            clear(where / JOINING, _in_the_way(comparison))
            join(where / INCOMING, where / JOINING, comparison.new)
        self._doom(where, [INCOMING])
        (where / JOINING).rename(where / INCOMING)

    def prepare(self, job: Job, pulse: Pulse) -> None:
        """Make a tree like the newest snapshot, from one that is not needed any more if there is one."""
        snapshots, where = self.snapshots(job), self._label(job)
        if not snapshots or not Shelf(self._root, job).has_listing(snapshots[-1].name):
            return
        name = f"{PREPARED}{snapshots[-1].name}"
        if not (where / name).is_dir():
            self._delete(where, [each for each in names(where) if each == PREPARING], pulse)
            if not self._recycle(job, snapshots[-1], pulse):
                link_tree(snapshots[-1].name, where, PREPARING, pulse)
            sync(where, pulse)
            (where / PREPARING).rename(where / name)
            sync_directory(where)
        others = [each for each in names(where) if each.startswith(PREPARED) and each != name]
        self._delete(where, others, pulse)

    def _recycle(self, job: Job, newest: Snapshot, pulse: Pulse) -> bool:
        """Turn a tree that is not needed any more into one like the newest snapshot, if there is one."""
        where, shelf = self._label(job), Shelf(self._root, job)
        spare = [name for name in names(where) if name.startswith((EXPIRED, PREPARED))]
        for name in sorted(spare, key=_taken, reverse=True):
            touched = shelf.touched_since(_taken(name), newest.name)
            if touched is None or len(touched) > RECYCLED:
                continue
            (where / name).rename(where / PREPARING)
            left = _still_there(newest.path, touched)
            with times_kept(where / PREPARING, set(map(folder_of, touched)) - touched):
                clear(where / PREPARING, (each for each in touched if each not in left or not left[each]))
                if left:
                    wanted = by_name(Shelf(self._root, job, IDLE).fresh("names"), left)
                    link_names(newest.path, where / PREPARING, wanted, pulse)
            return True
        return False

    def _bases(self, where: Path, job: Job, pulse: Pulse) -> tuple[Snapshot | None, tuple[str, ...]]:
        """Return the newest snapshot, and options to link to it and to what interrupted runs left."""
        self._doom(where, [name for name in names(where) if name == JOINING])
        if (where / INCOMING).is_dir():
            self._set_aside(where, pulse)
        self._bound_leftovers(where, pulse)
        snapshots = self.snapshots(job)
        newest = snapshots[-1] if snapshots else None
        left = _leftovers(where)[::-1]
        bases = ([newest.name] if newest else []) + left + [each.name for each in self.suspects(job)][-1:]
        # rsync reads a relative --link-dest from inside the directory that it fills.
        return newest, (*time_options(where), *(f"--link-dest=../{name}" for name in bases))

    def begin_copy(self, job: Job, original: Snapshot, pulse: Pulse) -> Fill:
        """Return a fill that links all that `original` holds: no file is copied."""
        where = self._make_label(job)
        if (where / INCOMING).is_dir():
            remove_trees(where, [INCOMING], pulse)
        snapshots = self.snapshots(job)
        fill = Fill(job, Destination(where, INCOMING, ()), snapshots[-1] if snapshots else None)
        try:
            link_tree(str(original.path), where, INCOMING, pulse)
        except FlashbackError as error:
            if "Too many links" not in error.what:
                raise
            # A file with tens of thousands of names: their number doubles, so it has to be stored again.
            remove_trees(where, [INCOMING], pulse)
            _copy(str(original.path), where, INCOMING, pulse)
        return fill

    def _after_commit(self, fill: Fill, pulse: Pulse) -> None:
        where = fill.destination.where
        partial = [PARTIAL] if (where / PARTIAL).is_dir() else []
        remove_trees(where, [*_leftovers(where), *partial], pulse)

    def _set_aside(self, where: Path, pulse: Pulse) -> None:
        """Move an interrupted fill to incoming.N, without the files a power cut may have hollowed out.

        The order makes an interruption of this very step harmless: until the rename the tree
        is still `incoming` with its old checkpoint, and everything here is done again.
        """
        drop_unsynced(where / INCOMING, synced_before(where), where / PARTIAL, pulse)
        sync(where, pulse)
        numbers = [int(name.rpartition(".")[2]) for name in _leftovers(where)]
        (where / INCOMING).rename(where / f"{INCOMING}.{max(numbers, default=0) + 1}")
        sync_directory(where)

    def _bound_leftovers(self, where: Path, pulse: Pulse) -> None:
        """Merge the newest leftovers until few enough remain."""
        while len(left := _leftovers(where)) > LEFTOVERS:
            _absorb(where / left[-1], where / left[-2], pulse)
            remove_trees(where, [left[-1]], pulse)


def link_tree(original: str, where: Path, name: str, pulse: Pulse) -> None:
    """Make a tree with links to all files of another: that changes nothing in it but the number of names."""
    _copy(original, where, name, pulse, "--link")


def _copy(original: str, where: Path, name: str, pulse: Pulse, *options: str) -> None:
    argv = ["cp", "-a", *options, "--no-target-directory", "--", original, name]
    done = process.run(process.tied(argv), cwd=where, pulse=pulse, timeout=LONG)
    if done.code != 0:
        said = " ".join(done.stderr.split())[-300:]
        raise FlashbackError(f"{where / original} cannot be copied: {said}", "Nothing was committed")


def link_names(original: Path, tree: Path, wanted: Sequence[str], pulse: Pulse) -> None:
    """Link what options name, or all, from one tree into another where only folders have these names."""
    argv = ["rsync", *transfer.KEEP_ALL, "--super", *transfer.attribute_filters(), *wanted]
    argv += [*time_options(tree.parent), f"--link-dest={original}", "--", f"{original}/", f"{tree}/"]
    done = process.run(process.tied(argv), pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise FlashbackError(
            f"{tree} cannot be brought up to date: {transfer.judge(done.code, done.stderr).note}"
        )


def _taken(name: str) -> str:
    """Return the name of the snapshot that a tree was, or is a copy of."""
    return name.removeprefix(EXPIRED).removeprefix(PREPARED)


def _still_there(tree: Path, names: Iterable[bytes]) -> dict[bytes, bool]:
    """Return those of the names that a tree has, and whether they are folders."""
    with below.opened(tree) as top:
        found = {name: below.status_of(top, name) for name in names}
    return {name: stat.S_ISDIR(status.st_mode) for name, status in found.items() if status is not None}


def _possible_holes(newest: Path, comparison: Comparison) -> int:
    """Return how many bytes of what is to be fetched may be holes, were it as dense as its predecessors."""
    total = 0
    with below.opened(newest) as top:
        for name, item in comparison.new.items():
            was = comparison.old.get(name)
            if item.kind == "f" and item.first is None and (was is None or was.content != item.content):
                status = None if was is None else below.status_of(top, name)
                total += max(0, item.size - (status.st_blocks * 512 if status else 0))
    return total


def _in_the_way(comparison: Comparison) -> Iterator[bytes]:
    """Yield all names that differ, but for folders that stay folders: those belong to one tree alone."""
    for name, item in comparison.old.items():
        now = comparison.new.get(name)
        if item.kind != "d" or now is None or now.kind != "d":
            yield name


def _continues(options: Sequence[str]) -> bool:
    return sum(option.startswith("--link-dest=") for option in options) > 1


def _leftovers(where: Path) -> list[str]:
    """Return incoming.1, incoming.2, ... in the order of their numbers."""
    found = [name for name in names(where) if name.startswith(f"{INCOMING}.") and name[9:].isdigit()]
    return sorted(found, key=lambda name: int(name[9:]))


def _absorb(newer: Path, older: Path, pulse: Pulse) -> None:
    """Move the files of one leftover into another; only names move, no file is opened."""
    with below.opened(newer) as source, below.opened(older) as target:
        for path, status in below.entries(newer, pulse):
            there = below.status_of(target, path)
            if stat.S_ISDIR(status.st_mode):
                if there is None and _has_folder(target, path):
                    os.mkdir(path, 0o700, dir_fd=target)
            elif _has_folder(target, path) and not (there and stat.S_ISDIR(there.st_mode)):
                os.replace(path, path, src_dir_fd=source, dst_dir_fd=target)


def _has_folder(top: int, path: bytes) -> bool:
    """Return whether the folder that would hold an entry is there."""
    above = below.status_of(top, path.rpartition(b"/")[0] or b".")
    return above is not None and stat.S_ISDIR(above.st_mode)
