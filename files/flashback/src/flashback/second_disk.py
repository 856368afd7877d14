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
from flashback.errors import FlashbackError, NotNowError, UsageError
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

    `proven` tells whether this disk had checksums to compare with, `lost` which files it could not give.
    """

    job: Job
    snapshot: Snapshot
    read: int = 0
    """Files that were new to the other disk."""
    read_bytes: int = 0
    proven: bool = True
    lost: tuple[bytes, ...] = ()


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
    """Refuse a disk that cannot hold what this one holds."""
    used, its = disk.require(here).used, disk.require(there)
    wanted, room = used - its.used, its.free
    if wanted > room:
        raise FlashbackError(
            f"{there.data_dir} has room for {room / 1e9:.1f} GB, the copy takes about {wanted / 1e9:.1f} GB",
            "Take a larger disk, or let some snapshots go first",
        )


def copy(
    here: Config, there: Config, wanted: Sequence[tuple[Job, Snapshot]], pulse: Pulse
) -> Iterator[Copied]:
    """Copy snapshots, in this order; yield each that is done, raise on the first that cannot be.

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
        self._damage = picking.known_damage(here)

    def copy(self, job: Job, snapshot: Snapshot) -> Copied | None:
        """Copy one snapshot; return None when it has expired."""
        disk.require(self._here)
        try:
            tree = below.open_tree(snapshot.path)
        except FileNotFoundError:
            return None
        try:
            return self._copy(job, snapshot, tree)
        except FlashbackError:
            if _is_still(tree, snapshot.path):
                raise
            self._its.discard(job, self._pulse)
            return None
        finally:
            os.close(tree)

    def follow(self, job: Job) -> Iterator[Copied]:
        """Do there what a person has decided here: accept what was held back, keep what is marked."""
        complete = {each.taken: each for each in self._mine.snapshots(job)}
        for suspect in self._its.suspects(job):
            if suspect.taken in complete:
                done = self._examined(job, complete[suspect.taken], suspect.path, {})
                self._its.accept(job, suspect, self._pulse)
                yield done
        for each in self._its.snapshots(job):
            self._mark(job, each)

    # --- one snapshot --------------------------------------------------------------------------------------

    def _copy(self, job: Job, snapshot: Snapshot, original: int) -> Copied:
        lost = self._known_lost(job, snapshot)
        fill = self._begun(job, snapshot)
        note = self._fill(fill, snapshot, lost)
        if note and (sick := self._sick(job, snapshot, fill.tree, lost)):
            lost |= sick
            fill = self._begun(job, snapshot)
            note = self._fill(fill, snapshot, lost)
        if note:
            raise FlashbackError(f"{snapshot.path} is not copied: {note}", "Copy again to go on")
        self._its.tidy(fill.tree)
        self._its.checkpoint(fill, self._pulse)
        try:
            done = self._examined(job, snapshot, fill.tree, lost)
        except _WrongError:
            self._its.discard(job, self._pulse)
            raise
        if not _is_still(original, snapshot.path):
            raise NotNowError(f"{snapshot.path} has expired")
        disk.require_same(self._there, self._lock)
        self._its.commit(fill, lambda: snapshot.taken, self._pulse, suspect=snapshot.suspect)
        self._mark(job, snapshot)
        with ledger.opened(self._there.data_dir) as book:
            for each in lost.values():
                book.found(each)
        return done

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
                "`flashback verify` tells whether it is this disk that is ill; then copy again",
            )
        return done

    def _mark(self, job: Job, snapshot: Snapshot) -> None:
        """Carry the keep mark of a snapshot over."""
        text = self._mine.notes(job).get(snapshot.taken)
        if text is not None and not snapshot.suspect and self._its.notes(job).get(snapshot.taken) != text:
            self._its.note(job, snapshot.taken, text)

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

    def _sick(self, job: Job, snapshot: Snapshot, tree: Path, lost: Collection[bytes]) -> dict[bytes, Damage]:
        """Return the files that did not arrive because this disk gives an error for them."""
        found: dict[bytes, Damage] = {}
        with below.opened(snapshot.path) as mine, below.opened(tree) as its:
            for path, status in below.entries(snapshot.path, self._pulse):
                if not stat.S_ISREG(status.st_mode) or path in lost or below.status_of(its, path):
                    continue
                try:
                    manifest.digest(mine, path, self._pulse)
                except OSError as error:
                    if error.errno not in manifest.SICK:
                        raise
                    found[path] = _unreadable(job, snapshot, path, status, str(error.strerror))
        original = manifest.place(self._here, job, snapshot.name)
        if found and original.is_file():
            for entry in manifest.read(original):
                if entry.path in found:
                    found[entry.path] = replace(found[entry.path], digest=entry.digest)
        return found


class _WrongError(FlashbackError):
    """A copy is not what the original's checksums say."""


def _unreadable(job: Job, snapshot: Snapshot, path: bytes, status: os.stat_result, said: str) -> Damage:
    return Damage(
        host=job.host,
        volume=job.volume,
        path=path,
        kind="unreadable",
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        digest=manifest.UNKNOWN,
        found_at=clock.now(),
        places=(Place(job.label, snapshot.name, path),),
        reason=f"the disk that it was copied from gave an error: {said}",
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
        said = [(entry.kind, entry.size, entry.digest) for entry in found]
        if len(said) != 2 or said[0] != said[1]:
            yield path


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
