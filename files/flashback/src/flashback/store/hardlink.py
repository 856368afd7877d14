"""Snapshots as plain trees that share unchanged files by hard links (ext4, xfs and others).

    HOST/VOLUME/LABEL/2026-11-23T030000Z/   complete
    HOST/VOLUME/LABEL/incoming/             being filled
    HOST/VOLUME/LABEL/incoming.synced       what arrived before this moment is safely on the disk
    HOST/VOLUME/LABEL/incoming.N/           left by interrupted fills, linked from, never written to
    HOST/VOLUME/LABEL/expired-.../          being deleted

This module decides nothing about when or what: it prepares, syncs, renames and deletes.

The sacred rule: no inode that a complete snapshot holds is ever modified.  Therefore a
fill always starts in an empty directory.  To continue an interrupted one by filling it
further would let rsync change a mode or owner in place, on an inode that older snapshots
hold too.  So the interrupted tree is moved aside and linked from, like a snapshot.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from flashback import process
from flashback.errors import FlashbackError
from flashback.model import Destination, Job, Pulse, Snapshot, snapshot_name, snapshot_time
from flashback.store import Fill

INCOMING = "incoming"
SYNCED = "incoming.synced"
EXPIRED = "expired-"
# rsync takes 20 --link-dest; every further one costs a lookup per file on a slow disk.
LEFTOVERS = 8
# Deleting or syncing a large tree on a USB 2 disk takes hours, in seconds.
LONG = 86400.0
# The clock may have been corrected while rsync ran; a little is waited for, in seconds.
CLOCK_PATIENCE = 5


class HardlinkStore:
    """A store below one mounted directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def snapshots(self, job: Job) -> list[Snapshot]:
        """Return the complete snapshots of a job, oldest first."""
        found = []
        for name in _names(self._label(job)):
            taken = snapshot_time(name)
            path = self._label(job) / name
            if taken is not None and path.is_dir() and not path.is_symlink():
                found.append(Snapshot(taken, path))
        return sorted(found)

    def begin(self, job: Job, pulse: Pulse) -> Fill:
        """Return an empty directory to fill; what an interrupted run left is linked from."""
        where = self._make_label(job)
        if (where / INCOMING).is_dir():
            self._set_aside(where, pulse)
        self._bound_leftovers(where, pulse)
        (where / INCOMING).mkdir(mode=0o700)
        snapshots = self.snapshots(job)
        newest = snapshots[-1] if snapshots else None
        bases = ([newest.name] if newest else []) + _leftovers(where)[::-1]
        # rsync reads a relative --link-dest from inside the directory that it fills.
        options = tuple(f"--link-dest=../{name}" for name in bases)
        fill = Fill(job, Destination(where, INCOMING, (options,)), newest, continued=bool(_leftovers(where)))
        self.checkpoint(fill, pulse)
        return fill

    def checkpoint(self, fill: Fill, pulse: Pulse) -> None:
        """Sync the file system, then record the moment at which the syncing began.

        The moment is the ctime of a file made on that very file system: it comes from the
        same clock, with the same granularity, as the ctimes that it will be compared with.
        """
        fresh = fill.destination.where / f"{SYNCED}.new"
        fresh.write_text("", encoding="ascii")
        started = fresh.stat().st_ctime_ns
        _sync(fill.destination.where, pulse)
        with fresh.open("w", encoding="ascii") as file:
            file.write(f"{started}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(fill.destination.where / SYNCED)
        _sync_directory(fill.destination.where)

    def emptied(self, fill: Fill) -> bool:
        """Return whether the new tree holds no regular file at all while the newest snapshot does."""
        if fill.newest is None or _has_file(fill.tree):
            return False
        return _has_file(fill.newest.path)

    def commit(self, fill: Fill, now: Callable[[], datetime], pulse: Pulse) -> Snapshot:
        """Sync, give the tree its name, sync the directory, delete what interrupted runs left."""
        _sync(fill.destination.where, pulse)
        taken = _free_moment(fill, now, pulse)
        path = fill.destination.where / snapshot_name(taken)
        (fill.tree).rename(path)
        _sync_directory(fill.destination.where)
        (fill.destination.where / SYNCED).unlink(missing_ok=True)
        _remove(fill.destination.where, _leftovers(fill.destination.where), pulse)
        return Snapshot(taken, path)

    def expire(self, job: Job, taken: Sequence[datetime], pulse: Pulse) -> None:
        """Take the names off those snapshots, then delete them at idle priority."""
        where = self._label(job)
        for moment in taken:
            name = snapshot_name(moment)
            (where / name).rename(where / f"{EXPIRED}{name}")
        if taken:
            _sync_directory(where)
            self.sweep(job, pulse)

    def sweep(self, job: Job, pulse: Pulse) -> None:
        """Delete what has lost its name, now or in a run that was interrupted."""
        where = self._label(job)
        _remove(where, [name for name in _names(where) if name.startswith(EXPIRED)], pulse)

    def _label(self, job: Job) -> Path:
        return self._root / job.host / job.volume / job.label

    def _make_label(self, job: Job) -> Path:
        """Return the job's directory, made if needed, but never the mount point above it."""
        at = self._root
        for name in (job.host, job.volume, job.label):
            below = at / name
            if not below.is_dir():
                below.mkdir(mode=0o700)
                _sync_directory(at)
            at = below
        return at

    def _set_aside(self, where: Path, pulse: Pulse) -> None:
        """Move an interrupted fill to incoming.N, without the files a power cut may have hollowed out.

        The order makes an interruption of this very step harmless: until the rename the tree
        is still `incoming` with its old checkpoint, and everything here is done again.
        """
        _drop_unsynced(where / INCOMING, _checkpoint(where), pulse)
        _sync(where, pulse)
        numbers = [int(name.rpartition(".")[2]) for name in _leftovers(where)]
        (where / INCOMING).rename(where / f"{INCOMING}.{max(numbers, default=0) + 1}")
        _sync_directory(where)

    def _bound_leftovers(self, where: Path, pulse: Pulse) -> None:
        """Merge the newest leftovers until few enough remain."""
        while len(names := _leftovers(where)) > LEFTOVERS:
            _absorb(where / names[-1], where / names[-2], pulse)
            _remove(where, [names[-1]], pulse)


def _names(where: Path) -> list[str]:
    try:
        return sorted(os.listdir(where))  # noqa: PTH208 - names are what is wanted
    except FileNotFoundError:
        return []


def _leftovers(where: Path) -> list[str]:
    """Return incoming.1, incoming.2, ... in the order of their numbers."""
    found = [name for name in _names(where) if name.startswith(f"{INCOMING}.") and name[9:].isdigit()]
    return sorted(found, key=lambda name: int(name[9:]))


def _checkpoint(where: Path) -> int:
    """Return the ctime in ns before which everything is on the disk; 0 when nothing is known."""
    try:
        return int((where / SYNCED).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _walk(top: Path) -> Iterator[os.DirEntry[str]]:
    """Yield every entry below a directory, parents first, following no link."""
    pending = [str(top)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                yield entry


def _drop_unsynced(tree: Path, checkpoint: int, pulse: Pulse) -> None:
    """Remove every file that was finished, linked or changed since the checkpoint.

    After a power cut such a file can have its name, size and time, but not its content;
    rsync would take it for good and link it.  Removing the name leaves the inode to the
    snapshots that hold it.
    """
    for count, entry in enumerate(_walk(tree)):
        if count % 500 == 0:
            pulse()
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode) and status.st_ctime_ns >= checkpoint:
            Path(entry.path).unlink()


def _absorb(newer: Path, older: Path, pulse: Pulse) -> None:
    """Move the files of one leftover into another; only names move, no file is opened."""
    for count, entry in enumerate(_walk(newer)):
        if count % 500 == 0:
            pulse()
        target = older / Path(entry.path).relative_to(newer)
        if entry.is_dir(follow_symlinks=False):
            if not os.path.lexists(target):
                target.mkdir(mode=0o700)
        elif target.parent.is_dir() and not target.parent.is_symlink() and not target.is_dir():
            Path(entry.path).replace(target)


def _has_file(tree: Path) -> bool:
    return any(entry.is_file(follow_symlinks=False) for entry in _walk(tree))


def _free_moment(fill: Fill, now: Callable[[], datetime], pulse: Pulse) -> datetime:
    """Return a moment later than every snapshot's; two completions in one second wait for the next."""
    until = time.monotonic() + CLOCK_PATIENCE
    while True:
        moment = now().astimezone(timezone.utc).replace(microsecond=0)
        late_enough = fill.newest is None or moment > fill.newest.taken
        if late_enough and not os.path.lexists(fill.destination.where / snapshot_name(moment)):
            return moment
        if time.monotonic() > until:
            raise FlashbackError(
                f"The clock went back while {fill.job.name} was filled: it says {snapshot_name(moment)}",
                "The tree is kept and continued once the clock is right",
            )
        pulse()
        time.sleep(0.1)


def _sync(where: Path, pulse: Pulse) -> None:
    done = process.run(["sync", "-f", "."], cwd=where, pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise FlashbackError(f"The backup disk cannot be synced: {' '.join(done.stderr.split())}")


def _sync_directory(where: Path) -> None:
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(where: Path, names: Sequence[str], pulse: Pulse) -> None:
    """Delete trees at idle priority; what cannot be deleted now is found again by the next sweep."""
    if not names:
        return
    argv = ["nice", "-n", "19", "ionice", "-c", "3", "rm", "-rf", "--one-file-system", "--", *names]
    done = process.run(argv, cwd=where, pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise FlashbackError(f"{names[0]} cannot be deleted: {' '.join(done.stderr.split())}")
