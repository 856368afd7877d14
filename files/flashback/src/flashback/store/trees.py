"""What both kinds of storage share: the names in a label's directory, syncing, removing, keep marks.

    HOST/VOLUME/LABEL/2026-11-23T030000Z/          complete
    HOST/VOLUME/LABEL/suspect-2026-11-23T030000Z/  held back by the guard
    HOST/VOLUME/LABEL/incoming/                    being filled
    HOST/VOLUME/LABEL/incoming.synced              what arrived before this moment is safely on the disk
    HOST/VOLUME/LABEL/incoming.partial/            a file that was interrupted (btrfs: in incoming)
    HOST/VOLUME/LABEL/expired-.../                 to be deleted, or used for the next
    HOST/VOLUME/LABEL/prepared-.../                a copy of that snapshot, to which the next fill is added
    HOST/VOLUME/LABEL/preparing/                   such a copy that is being made
    HOST/VOLUME/LABEL/deleting-.../                being deleted
    HOST/VOLUME/LABEL/kept.json                    snapshots that a person marked, with their notes

The sacred rule: a name is given or taken by one rename, and the directory is synced after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from flashback import below, process
from flashback.errors import FlashbackError, StoppedError, UsageError
from flashback.listing import Comparison
from flashback.model import SUSPECT, Job, Pulse, Snapshot, snapshot_name, snapshot_time
from flashback.shelf import Shelf
from flashback.store import Fill

INCOMING = "incoming"
SYNCED = "incoming.synced"
PARTIAL = "incoming.partial"
EXPIRED = "expired-"
PREPARED = "prepared-"
PREPARING = "preparing"
DELETING = "deleting-"
KEPT = "kept.json"
# How rsync names a file that it is writing: .NAME.XXXXXX (receiver.c).
_UNFINISHED = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}")
# Deleting or syncing a large tree on a USB 2 disk takes hours, in seconds.
LONG = 86400.0
# The clock may have been corrected while rsync ran; a little is waited for, in seconds.
CLOCK_PATIENCE = 5


class Trees:
    """A store below one mounted directory; how trees are made and deleted is left to its kinds."""

    kind = ""

    def __init__(self, root: Path) -> None:
        self._root = root

    def snapshots(self, job: Job) -> list[Snapshot]:
        """Return the complete snapshots of a job, oldest first, without the suspect ones."""
        return self._found(job, "")

    def suspects(self, job: Job) -> list[Snapshot]:
        """Return what the guard held back, oldest first."""
        return self._found(job, SUSPECT)

    def tidy(self, tree: Path) -> None:
        """Do nothing: all that is of use for filling a tree alone lies beside it."""

    def checkpoint(self, fill: Fill, pulse: Pulse) -> None:
        """Sync the file system, then record the moment at which the syncing began.

        The moment is the ctime of a file made on that very file system: it comes from the
        same clock, with the same granularity, as the ctimes that it will be compared with.
        """
        where = fill.destination.where
        fresh = where / f"{SYNCED}.new"
        fresh.write_text("", encoding="ascii")
        started = fresh.stat().st_ctime_ns
        sync(where, pulse)
        write_safely(where / SYNCED, f"{started}\n")

    def commit(
        self, fill: Fill, now: Callable[[], datetime], pulse: Pulse, *, suspect: bool = False
    ) -> Snapshot:
        """Sync, give the tree its name, sync the directory, delete what interrupted runs left."""
        where = fill.destination.where
        sync(where, pulse)
        taken = self._free_moment(fill, now, pulse)
        snapshot = Snapshot(taken, where / ((SUSPECT if suspect else "") + snapshot_name(taken)), suspect)
        self._seal(fill.tree)
        fill.tree.rename(snapshot.path)
        sync_directory(where)
        for name in names(where):
            if name.startswith(f"{INCOMING}.") and (where / name).is_file():
                (where / name).unlink()
        # The snapshot counts, whatever becomes of the rest.
        with contextlib.suppress(StoppedError):
            self._after_commit(fill, pulse)
        return snapshot

    def accept(self, job: Job, suspect: Snapshot, pulse: Pulse) -> Snapshot:
        """Make a suspect snapshot a complete one: it takes its place by its own time."""
        pulse()
        return self._renamed(job, suspect, suspect.taken)

    def reject(self, job: Job, suspect: Snapshot, pulse: Pulse) -> None:
        """Delete a suspect snapshot at idle priority; first it loses its name."""
        where = self._label(job)
        (where / suspect.name).rename(where / f"{EXPIRED}{suspect.name}")
        sync_directory(where)
        self.sweep(job, pulse)

    def rename(self, job: Job, snapshot: Snapshot, taken: datetime) -> Snapshot:
        """Give a complete snapshot whose name bears a wrong time another one."""
        return self._renamed(job, snapshot, taken)

    def expire(self, job: Job, taken: Sequence[datetime], pulse: Pulse) -> None:
        """Take the names off those snapshots, then delete them at idle priority."""
        self.retire(job, taken)
        if taken:
            self.sweep(job, pulse)

    def retire(self, job: Job, taken: Sequence[datetime]) -> None:
        """Take the names off those snapshots; `sweep` deletes them when there is time."""
        where = self._label(job)
        for moment in taken:
            name = snapshot_name(moment)
            (where / name).rename(where / f"{EXPIRED}{name}")
        if taken:
            sync_directory(where)

    def sweep(self, job: Job, pulse: Pulse) -> bool:
        """Delete what has lost its name, now or in an interrupted run; return whether there was any."""
        where = self._label(job)
        gone = [name for name in names(where) if name.startswith((EXPIRED, DELETING)) or name == PREPARING]
        self._delete(where, gone, pulse)
        trees = [name.removeprefix(PREPARED) for name in names(where) if (where / name).is_dir()]
        complete = self.snapshots(job)
        newest = complete[-1].name if complete else None
        Shelf(self._root, job).sweep([name for name in trees if snapshot_time(name)], newest)
        return bool(gone)

    def discard(self, job: Job, pulse: Pulse) -> None:
        """Delete what interrupted fills left: the last thing that makes room on a full disk."""
        where = self._label(job)
        left = [
            name
            for name in names(where)
            if name.startswith((INCOMING, PREPARED, PREPARING)) and (where / name).is_dir()
        ]
        self._delete(where, left, pulse)

    def settle(self, pulse: Pulse) -> None:
        """Do nothing: what is deleted is free."""

    def notes(self, job: Job) -> dict[datetime, str]:
        """Return the keep marks of a job: the note of each snapshot that must never expire."""
        try:
            found = dict(json.loads((self._label(job) / KEPT).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise FlashbackError(
                f"The keep marks in {self._label(job) / KEPT} cannot be read: {error}",
                "Mend or remove that file; until then nothing of this job expires",
            ) from None
        marks = {snapshot_time(str(name)): str(text) for name, text in found.items()}
        return {taken: text for taken, text in marks.items() if taken is not None}

    def note(self, job: Job, taken: datetime, text: str | None) -> None:
        """Set the keep mark of a snapshot, or with None take it away; it survives a power cut."""
        if text is not None and taken not in {each.taken for each in self.snapshots(job)}:
            raise UsageError(
                f"{job.name} has no snapshot {snapshot_name(taken)}",
                f"`flashback snapshots {job.name}` lists them",
            )
        marks = {**self.notes(job), taken: text}
        kept = {snapshot_name(each): words for each, words in marks.items() if words is not None}
        write_safely(self._label(job) / KEPT, json.dumps(kept, indent=1) + "\n")

    def mend(self, snapshot: Snapshot, path: bytes, healed: Path | None) -> None:
        """Replace a damaged file by `healed`, a file on the same disk, or with None take its name away."""
        target = snapshot.path / os.fsdecode(path)
        times = target.parent.stat()
        # A tree that is used for the next fill could still hold the damaged file.
        Shelf.forget_volume(self._root, *snapshot.path.relative_to(self._root).parts[:2])
        with self._opened(snapshot):
            self._replace(target, healed)
            os.utime(target.parent, ns=(times.st_atime_ns, times.st_mtime_ns))

    def prepare(self, job: Job, pulse: Pulse) -> None:
        """Do nothing: what a fill begins with can be had at once."""

    def join(self, fill: Fill, comparison: Comparison) -> None:
        """Do nothing: what did not change is there from the beginning."""

    def writing(self, fill: Fill, pulse: Pulse) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the file system writes what has arrived."""
        return syncing(fill.destination.where, pulse)

    # --- what the kinds do differently ---------------------------------------------------------------------

    def _seal(self, tree: Path) -> None:
        """Make a filled tree read-only where that is possible."""

    def _after_commit(self, fill: Fill, pulse: Pulse) -> None:
        """Tidy up once the snapshot has its name."""

    def _delete(self, where: Path, gone: Sequence[str], pulse: Pulse) -> None:
        """Delete trees. Before that they lose any name by which they count as whole: deleting takes long."""
        doomed = self._doom(where, gone)
        if gone:
            sync_directory(where)
        self._remove(where, doomed, pulse)

    def _doom(self, where: Path, gone: Sequence[str]) -> list[str]:
        """Give trees names under which `sweep` deletes them; return these."""
        doomed = []
        for name in gone:
            free = name if name.startswith(DELETING) else f"{DELETING}{name}"
            while free != name and os.path.lexists(where / free):
                free += "."
            (where / name).rename(where / free)
            doomed.append(free)
        return doomed

    def _remove(self, where: Path, gone: Sequence[str], pulse: Pulse) -> None:
        remove_trees(where, gone, pulse)

    def _opened(self, snapshot: Snapshot) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002 - btrfs uses it
        """Return a context in which the snapshot may be written to."""
        return contextlib.nullcontext()

    def _bring(self, healed: Path, fresh: Path) -> None:
        """Make the healed file appear under another name on the same disk."""
        fresh.hardlink_to(healed)

    def _replace(self, target: Path, healed: Path | None) -> None:
        if healed is None:
            target.unlink()
            return
        # A name of its own beside the target, then one rename: there is no moment without a file.
        fresh = target.parent / ".mending"
        fresh.unlink(missing_ok=True)
        self._bring(healed, fresh)
        fresh.replace(target)
        # Renaming a name of an inode onto another name of it does nothing at all.
        fresh.unlink(missing_ok=True)

    # --- names ---------------------------------------------------------------------------------------------

    def _label(self, job: Job) -> Path:
        return self._root / job.host / job.volume / job.label

    def _make_label(self, job: Job) -> Path:
        """Return the job's directory, made if needed, but never the mount point above it."""
        at = self._root
        for name in (job.host, job.volume, job.label):
            below = at / name
            if not below.is_dir():
                below.mkdir(mode=0o700)
                sync_directory(at)
            at = below
        return at

    def _found(self, job: Job, prefix: str) -> list[Snapshot]:
        found = []
        for name in names(self._label(job)):
            taken = snapshot_time(name.removeprefix(prefix)) if name.startswith(prefix) else None
            path = self._label(job) / name
            if taken is not None and path.is_dir() and not path.is_symlink():
                found.append(Snapshot(taken, path, bool(prefix)))
        return sorted(found)

    def _renamed(self, job: Job, snapshot: Snapshot, taken: datetime) -> Snapshot:
        path = self._label(job) / snapshot_name(taken)
        if os.path.lexists(path):
            raise FlashbackError(f"{path} is there already", "Nothing was renamed")
        # Its own directory may be read-only (btrfs), but a name belongs to the directory above.
        snapshot.path.rename(path)
        sync_directory(path.parent)
        Shelf(self._root, job).forget(snapshot.name)
        return Snapshot(taken, path)

    def _free_moment(self, fill: Fill, now: Callable[[], datetime], pulse: Pulse) -> datetime:
        """Return a moment later than every snapshot's; two completions in one second wait for the next."""
        until = time.monotonic() + CLOCK_PATIENCE
        where = fill.destination.where
        while True:
            moment = now().astimezone(timezone.utc).replace(microsecond=0)
            name = snapshot_name(moment)
            late_enough = fill.newest is None or moment > fill.newest.taken
            if late_enough and not any(os.path.lexists(where / each) for each in (name, SUSPECT + name)):
                return moment
            if time.monotonic() > until:
                raise FlashbackError(
                    f"The clock went back while {fill.job.name} was filled: it says {name}",
                    "The tree is kept and continued once the clock is right",
                )
            pulse()
            time.sleep(0.1)


def names(where: Path) -> list[str]:
    """Return the sorted names in a directory; none when it is not there."""
    try:
        return sorted(os.listdir(where))  # noqa: PTH208 - names are what is wanted
    except FileNotFoundError:
        return []


def synced_before(where: Path) -> int:
    """Return the ctime in ns before which everything is on the disk; 0 when nothing is known."""
    try:
        return int((where / SYNCED).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def drop_unsynced(tree: Path, checkpoint: int, partial: Path, pulse: Pulse) -> None:
    """Remove every file that was finished, linked or changed since the checkpoint.

    After a power cut such a file can have its name, size and time, but not its content;
    rsync would take it for good.  Removing the name leaves the inode to the snapshots that
    hold it.  A file that rsync had not finished goes to `partial`: from there rsync takes no
    block without comparing its checksum, so it may hold anything.
    """
    with below.opened(tree) as top:
        for path, status in below.entries(tree, pulse):
            if partial.parent == tree and path.split(b"/", 1)[0] == os.fsencode(partial.name):
                continue
            if stat.S_ISDIR(status.st_mode) or status.st_ctime_ns < checkpoint:
                continue
            unfinished = _UNFINISHED.fullmatch(os.fsdecode(path.rpartition(b"/")[2]))
            if unfinished and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                partial.mkdir(mode=0o700, exist_ok=True)
                os.rename(path, os.fsencode(partial / unfinished[1]), src_dir_fd=top)
            else:
                os.unlink(path, dir_fd=top)


def note_synced(where: Path) -> None:
    """Remember that all there is now is on the disk. Should this be lost, nothing is believed to be."""
    fresh = where / f"{SYNCED}.new"
    fresh.write_text("", encoding="ascii")
    fresh.write_text(f"{fresh.stat().st_ctime_ns}\n", encoding="ascii")
    fresh.rename(where / SYNCED)


def time_options(where: Path) -> tuple[str, ...]:
    """Return what rsync needs where times of files are kept as whole seconds (ext4 with small inodes)."""
    probe = where / f"{INCOMING}.probe"
    probe.write_text("", encoding="ascii")
    os.utime(probe, ns=(123_456_789, 123_456_789))
    fine = probe.stat().st_mtime_ns % 10**9
    probe.unlink()
    return () if fine else ("--modify-window=0",)


def by_name(listed: Path, wanted: Collection[bytes]) -> tuple[str, ...]:
    """Write names down and return the options with which rsync looks at exactly these.

    It looks at the folder that holds them all by itself.  Named, that would bring all entries directly in it.

    rsync is told to trust the sender: else it looks through all names for each one that it receives, which
    grows with the square of their number (5,000 names: a second of a fast processor).  So whoever fetches
    by name has to see to it that a name that was not asked for does no harm.
    """
    names = sorted(name for name in wanted if name != b".")
    # The dot before a name keeps rsync from taking it for a comment.
    listed.write_bytes(b"".join(b"./" + name + b"\0" for name in names) or b".\0")
    return ("--from0", f"--files-from={listed}", "--trust-sender", *(() if names else ("--exclude=/*",)))


def as_pattern(path: bytes) -> bytes:
    """Return a path in which rsync finds no wildcard; a backslash escapes only where there is a wildcard."""
    if not any(sign in path for sign in (b"*", b"?", b"[")):
        return path
    for sign in (b"\\", b"*", b"?", b"["):
        path = path.replace(sign, b"\\" + sign)
    return path


def sync(where: Path, pulse: Pulse) -> None:
    """Bring all of the file system to the disk."""
    with syncing(where, pulse):
        pass


@contextlib.contextmanager
def syncing(where: Path, pulse: Pulse) -> Iterator[None]:
    """Bring to the disk what the file system holds now, while something else is done.

    The kernel tells of a failure to write once only: so it is never passed over.
    """
    with process.beside(["sync", "-f", "."], cwd=where, pulse=pulse, timeout=LONG) as finish:
        yield
        done = finish()
    if done.code != 0:
        raise FlashbackError(f"The backup disk cannot be synced: {' '.join(done.stderr.split())}")


def sync_directory(where: Path) -> None:
    """Bring the names of one directory to the disk."""
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_safely(path: Path, text: str) -> None:
    """Replace a small file so that a power cut leaves the old or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def remove_trees(where: Path, gone: Sequence[str], pulse: Pulse) -> None:
    """Delete trees at idle priority; what cannot be deleted now is found again by the next sweep."""
    if not gone:
        return
    argv = ["nice", "-n", "19", "ionice", "-c", "3", "rm", "-rf", "--one-file-system", "--", *gone]
    done = process.run(process.tied(argv), cwd=where, pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise FlashbackError(f"{gone[0]} cannot be deleted: {' '.join(done.stderr.split())}")
