"""Copy all snapshots to another disk: one that takes the place of this one, or one that holds a second copy.

Each snapshot becomes one there, of the same name, the oldest of a volume first, so that what they share
here they share there, as far as the file systems of the two can.  Copying again brings what is missing.
Beside the snapshots go their keep marks, the history, the pauses and the list of what is damaged; what is
derived is made anew.

This disk is only read, and may be ill: what it cannot read is left out, named, and listed as damaged on the
other disk too.  The sacred rule: a copy gets its name only when its checksums, made from what the other disk
holds, are those that were made here, but for what is named.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from flashback import below, clock, disk, ledger, manifest, picking, transfer
from flashback.errors import FlashbackError, NotNowError, StoppedError, UsageError
from flashback.ledger import Damage, Place
from flashback.model import Config, Job, Pulse, Snapshot
from flashback.store import Fill, Store, open_store
from flashback.store.trees import as_pattern, sync_directory

LOG = logging.getLogger("flashback.second_disk")
HISTORY = "history.db"
PAUSES = "paused.json"
# Beside the tree that is filled: what is known to be damaged, and so not copied.
DAMAGED = "incoming.damaged"
# A terabyte at USB 2 takes half a day, in seconds.
LONG = 7 * 86400
# Seconds after which what has arrived is made to survive a power cut.
CHECKPOINT = 300.0


@dataclass(frozen=True)
class Copied:
    """What became of one snapshot.

    `proven` tells whether this disk had checksums to compare with, `lost` what it could not give, and
    `problem` why there is no copy.
    """

    job: Job
    snapshot: Snapshot
    read: int = 0
    """Files that were new to the other disk."""
    read_bytes: int = 0
    proven: bool = True
    lost: tuple[bytes, ...] = ()
    problem: str = ""


def at(config: Config, mount: Path) -> Config:
    """Return the configuration of a backup disk that is mounted elsewhere; refuse what is none."""
    if not mount.is_mount():
        raise UsageError(f"Nothing is mounted on {mount}", "Mount the disk there")
    there = replace(config, data_dir=mount, disk_id=None)
    found = disk.look(there)
    if not found.present:
        raise UsageError(
            f"{mount} is no backup disk: {found.reason}", f"`flashback disk mark {mount}` makes it one"
        )
    return there


def other(here: Config, mount: Path) -> Config:
    """Return the configuration of another backup disk; refuse the one that it is to be a copy of."""
    there = at(here, mount)
    disk.require(here)
    if (here.data_dir / disk.META).samefile(mount / disk.META):
        raise UsageError(f"{mount} is the disk itself", "Name where another one is mounted")
    return there


def missing(here: Config, there: Config) -> list[tuple[Job, Snapshot]]:
    """Return what the other disk lacks, the oldest of each volume first."""
    mine, its = open_store(here.data_dir), open_store(there.data_dir)
    found = []
    for job in picking.stored_jobs(here, None):
        known = {each.taken for each in (*its.snapshots(job), *its.suspects(job))}
        found += [
            (job, each) for each in (*mine.snapshots(job), *mine.suspects(job)) if each.taken not in known
        ]
    return sorted(found, key=lambda pair: (pair[0].host, pair[0].volume, pair[1].taken, pair[0].label))


def require_room(here: Config, there: Config) -> None:
    """Refuse an empty disk that cannot hold what this one holds; how much a later copy takes is not known."""
    wanted, room = disk.require(here).used, disk.require(there).free
    if wanted > room and not picking.stored_jobs(there, None):
        raise FlashbackError(
            f"{there.data_dir} has room for {room / 1e9:.1f} GB, the copy takes about {wanted / 1e9:.1f} GB",
            "Take a larger disk, or let some snapshots go first",
        )


def copy(
    here: Config, there: Config, wanted: Sequence[tuple[Job, Snapshot]], pulse: Pulse
) -> Iterator[Copied]:
    """Copy snapshots, in this order, and yield what became of each; raise when it makes no sense to go on.

    One that expires meanwhile is no copy and no failure.
    """
    with disk.locked(there) as lock:
        work = _Work(here, there, lock, pulse)
        _carry(here.data_dir / disk.META, there.data_dir / disk.META)
        for job, snapshot in wanted:
            made = work.copy(job, snapshot)
            if made is not None:
                yield made
        for job in picking.stored_jobs(here, None):
            yield from work.follow(job)


class _Work:
    """What the copying of all snapshots shares."""

    def __init__(self, here: Config, there: Config, lock: int, pulse: Pulse) -> None:
        self._here, self._there, self._lock, self._pulse = here, there, lock, pulse
        self._mine: Store = open_store(here.data_dir)
        self._its: Store = open_store(there.data_dir)
        try:
            self._damage = picking.known_damage(here)
        except FlashbackError as error:
            # What it cannot read or gives back wrong is found again.
            LOG.warning("the list of damaged files cannot be read: %s", error)
            self._damage = []

    def copy(self, job: Job, snapshot: Snapshot) -> Copied | None:
        """Copy one snapshot; return None when it has expired."""
        disk.require(self._here)
        try:
            tree = below.open_tree(snapshot.path)
        except FileNotFoundError:
            return None
        try:
            return self._copy(job, snapshot, tree)
        except (FlashbackError, OSError) as error:
            if isinstance(error, StoppedError):
                raise
            if not _is_still(tree, snapshot.path):
                self._its.discard(job, self._pulse)
                return None
            if not isinstance(error, _WrongError):
                raise
            self._its.discard(job, self._pulse)
            return Copied(job, snapshot, problem=str(error))
        finally:
            os.close(tree)

    def follow(self, job: Job) -> Iterator[Copied]:
        """Do there what a person has decided here: accept what was held back, keep what is marked."""
        complete = {each.taken: each for each in self._mine.snapshots(job)}
        for suspect in self._its.suspects(job):
            if suspect.taken not in complete:
                continue
            original = complete[suspect.taken]
            try:
                done = self._examined(job, original, suspect.path, self._known_lost(job, original))
            except _WrongError as error:
                yield Copied(job, original, problem=str(error))
            else:
                self._its.accept(job, suspect, self._pulse)
                yield done
        for each in self._its.snapshots(job):
            self._mark(job, each)

    # --- one snapshot --------------------------------------------------------------------------------------

    def _copy(self, job: Job, snapshot: Snapshot, original: int) -> Copied:
        lost = self._known_lost(job, snapshot)
        fill, note = self._filled(job, snapshot, lost)
        # What this disk cannot give is left out, and then all the rest has to arrive.
        if note and (ill := self._ill(job, snapshot, fill.tree, lost)):
            lost |= ill
            fill, note = self._filled(job, snapshot, lost)
        if note:
            raise _WrongError(f"{snapshot.path} is not copied: {note}")
        try:
            done = self._examined(job, snapshot, fill.tree, lost)
        except _WrongError:
            if not (ill := self._ill(job, snapshot, fill.tree, lost)):
                raise
            lost |= ill
            fill, note = self._filled(job, snapshot, lost)
            if note:
                raise
            done = self._examined(job, snapshot, fill.tree, lost)
        if not _is_still(original, snapshot.path):
            raise NotNowError(f"{snapshot.path} has expired")
        disk.require_same(self._there, self._lock)
        with ledger.opened(self._there.data_dir) as book:
            for each in lost.values():
                book.found(each)
        self._its.commit(fill, lambda: snapshot.taken, self._pulse, suspect=snapshot.suspect)
        self._mark(job, snapshot)
        return done

    def _filled(self, job: Job, snapshot: Snapshot, lost: Collection[bytes]) -> tuple[Fill, str]:
        """Return a filled tree that is on the disk, and what rsync could not do."""
        fill = self._begun(job, snapshot)
        note = self._fill(fill, snapshot, lost)
        self._its.tidy(fill.tree)
        self._its.checkpoint(fill, self._pulse)
        return fill, note

    def _begun(self, job: Job, snapshot: Snapshot) -> Fill:
        """Begin a snapshot of the other disk; it takes its place by its own time, whatever came later."""
        disk.require_same(self._there, self._lock)
        fill = self._its.begin(job, self._pulse, beside=self._nearest(job, snapshot))
        earlier = [each for each in self._its.snapshots(job) if each.taken < snapshot.taken]
        return replace(fill, newest=earlier[-1] if earlier else None)

    def _nearest(self, job: Job, snapshot: Snapshot) -> Snapshot | None:
        """Return the copy, of whatever label of the volume, that is the nearest in time: it shares most."""
        labels = picking.stored_jobs(self._there, f"{job.host}/{job.volume}")
        found = [each for label in labels for each in self._its.snapshots(label)]
        return min(found, key=lambda each: abs(each.taken - snapshot.taken), default=None)

    def _fill(self, fill: Fill, snapshot: Snapshot, lost: Collection[bytes]) -> str:
        """Let rsync copy a tree without the files that are lost; return what it could not do."""
        where = fill.destination.where
        (where / DAMAGED).write_bytes(b"\0".join(b"/" + as_pattern(path) for path in sorted(lost)))
        without = ("--from0", f"--exclude-from={DAMAGED}")
        passes = tuple((*options, *without) for options in fill.destination.passes)
        done = transfer.fill(
            self._there,
            replace(fill.job, source=str(snapshot.path), local=True, timeout=LONG, one_file_system=False),
            "",
            replace(fill.destination, passes=passes),
            pulse=self._saving(fill),
            on_progress=lambda _: None,
            log=LOG.debug,
            lock=self._lock,
        )
        if not done.verdict.complete and done.exit != transfer.PARTIAL:
            with contextlib.suppress(FlashbackError, OSError):
                self._its.checkpoint(fill, self._pulse)
            raise FlashbackError(
                f"{snapshot.path} is not copied: {done.verdict.note}", "Copy again to go on where this ended"
            )
        return done.verdict.note

    def _saving(self, fill: Fill) -> Pulse:
        """Return a pulse that now and then makes what has arrived survive a power cut."""
        due = time.monotonic() + CHECKPOINT

        def watch() -> None:
            nonlocal due
            self._pulse()
            if time.monotonic() >= due:
                disk.require_same(self._there, self._lock)
                self._its.checkpoint(fill, self._pulse)
                due = time.monotonic() + CHECKPOINT

        return watch

    def _examined(self, job: Job, snapshot: Snapshot, tree: Path, lost: Mapping[bytes, Damage]) -> Copied:
        """Make the checksums of a copy and compare them with the original's."""
        done = Copied(job, snapshot, proven=False, lost=tuple(sorted(lost)))
        if snapshot.suspect:
            return done
        made = manifest.describe(self._there, job, tree, snapshot.taken, self._pulse)
        done = replace(done, read=made.read, read_bytes=made.read_bytes)
        original, copied = (
            manifest.place(config, job, snapshot.name) for config in (self._here, self._there)
        )
        wrong = [f"{made.unreadable} files cannot be read there"] if made.unreadable else []
        if original.is_file():
            done = replace(done, proven=True)
            paths = (path for path in differing(original, copied) if path not in lost)
            wrong += [f"{picking.shown(path)} is not what its checksum says" for path in paths]
        if wrong:
            copied.unlink()
            more = f", nor are {len(wrong) - 1} others" if len(wrong) > 1 else ""
            raise _WrongError(
                f"{job.name}/{snapshot.name} is not copied: {wrong[0]}{more}",
                "Look at the health of both disks, then copy again",
            )
        return done

    def _mark(self, job: Job, snapshot: Snapshot) -> None:
        """Carry the keep mark of a snapshot over."""
        try:
            text = self._mine.notes(job).get(snapshot.taken)
            there = self._its.notes(job).get(snapshot.taken)
            if text is not None and text != there and not snapshot.suspect:
                self._its.note(job, snapshot.taken, text)
        except FlashbackError as error:
            LOG.warning("the keep marks of %s are not copied: %s", job.name, error)

    # --- what this disk cannot give ------------------------------------------------------------------------

    def _known_lost(self, job: Job, snapshot: Snapshot) -> dict[bytes, Damage]:
        """Return the files of a snapshot that are known to be damaged."""
        own = (job.host, job.volume, job.label, snapshot.name)
        return {
            at.path: replace(each, id=0, evidence=None, places=(at,))
            for each in self._damage
            for at in each.places
            if (each.host, each.volume, at.label, at.snapshot) == own
        }

    def _ill(self, job: Job, snapshot: Snapshot, tree: Path, lost: Collection[bytes]) -> dict[bytes, Damage]:
        """Return what did not arrive because this disk gives an error for it, or other bytes than it got."""
        original = manifest.place(self._here, job, snapshot.name)
        if not original.is_file():
            return {}
        found: dict[bytes, Damage] = {}
        folder = b""
        with below.opened(snapshot.path) as mine, below.opened(tree) as its:
            for entry in manifest.read(original):
                self._pulse()
                inside = bool(folder) and entry.path.startswith(folder)
                why = "its folder cannot be read" if inside else self._fault(mine, its, entry, lost)
                if why:
                    found[entry.path] = _damage(job, snapshot, entry, why)
                    folder = entry.path + b"/" if entry.kind == b"d" and not inside else folder
        return found

    def _fault(self, mine: int, its: int, entry: manifest.Entry, lost: Collection[bytes]) -> str:
        """Return what is wrong with an entry of this disk that has not arrived as its manifest says."""
        try:
            if entry.kind == b"d":
                below.names(mine, entry.path)
                return ""
            if entry.kind != b"f" or entry.path in lost or self._arrived(its, entry):
                return ""
            digest = manifest.digest(mine, entry.path, self._pulse)
        except OSError as error:
            if error.errno not in manifest.SICK:
                return ""
            return f"the disk that it was copied from gave an error: {error.strerror}"
        if entry.digest in (digest, manifest.UNKNOWN):
            return ""
        return "the disk that it was copied from gave back other bytes than it was given"

    def _arrived(self, its: int, entry: manifest.Entry) -> bool:
        status = below.status_of(its, entry.path)
        if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        return entry.digest in (manifest.digest(its, entry.path, self._pulse), manifest.UNKNOWN)


class _WrongError(FlashbackError):
    """A copy is not what the original's checksums say."""


def _damage(job: Job, snapshot: Snapshot, entry: manifest.Entry, reason: str) -> Damage:
    return Damage(
        host=job.host,
        volume=job.volume,
        path=entry.path,
        kind="missing",
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        inode=entry.inode,
        digest=entry.digest,
        found_at=clock.now(),
        places=(Place(job.label, snapshot.name, entry.path),),
        reason=reason,
    )


def _is_still(tree: int, path: Path) -> bool:
    """Return whether a folder that was opened still has its name."""
    try:
        return os.path.samestat(os.fstat(tree), path.lstat())
    except FileNotFoundError:
        return False


def differing(one: Path, another: Path) -> Iterator[bytes]:
    """Yield the paths that only one of two manifests has, or of which kind, size or checksum differs."""

    def place(entry: manifest.Entry) -> bytes:
        return manifest.order(entry.path)

    both = heapq.merge(manifest.read(one), manifest.read(another), key=place)
    for path, found in itertools.groupby(both, key=lambda entry: entry.path):
        mine, *its = found
        if len(its) != 1 or not _same(mine, its[0]):
            yield path


def _same(mine: manifest.Entry, its: manifest.Entry) -> bool:
    # A file that could not be read when its checksum was to be made may be read by now.
    unknown = mine.kind == b"f" and mine.digest == manifest.UNKNOWN
    return mine[:2] == its[:2] and (unknown or mine.digest == its.digest)


# --- what belongs to no snapshot -----------------------------------------------------------------------


def _carry(mine: Path, its: Path) -> None:
    """Carry the history and the pauses over; they are no reason not to copy the snapshots."""
    try:
        newest = _newest_run(mine / HISTORY)
        if newest and newest >= _newest_run(its / HISTORY):
            _carry_history(mine, its)
        if (mine / PAUSES).is_file() and not (its / PAUSES).exists():
            shutil.copy2(mine / PAUSES, its / PAUSES)
            sync_directory(its)
    except (sqlite3.Error, OSError) as error:
        LOG.warning("the history is not copied: %s", error)


def _newest_run(file: Path) -> str:
    """Return when the last run of a history ended, as it is written there; nothing where there is none."""
    if not file.is_file():
        return ""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=60)) as db:
        return db.execute("SELECT max(finished_at) FROM runs").fetchone()[0] or ""


def _carry_history(mine: Path, its: Path) -> None:
    fresh = its / f"{HISTORY}.new"
    fresh.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"{(mine / HISTORY).as_uri()}?mode=ro", uri=True, timeout=60)) as source,
        closing(sqlite3.connect(fresh)) as target,
    ):
        source.backup(target)
    fresh.chmod((mine / HISTORY).stat().st_mode & 0o777)
    (its / f"{HISTORY}-journal").unlink(missing_ok=True)
    fresh.replace(its / HISTORY)
    sync_directory(its)
