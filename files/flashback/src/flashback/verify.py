"""Read stored data again, a slice each night, and name what is damaged.

The manifests of a volume are merged by path, and a cursor in the ledger goes round and round over
all volumes: what was read longest ago comes next, whatever snapshots came or went meanwhile.  Data
that snapshots share is read once in a round.

What is found bad (content, size or time differ from the manifest, or the name is gone) is put on
the ledger's list first, then handed to `heal`.  The sacred rule: a disk that gives errors is
reported and left alone, and so is one that gives too many: an error is no reason to delete.
"""

from __future__ import annotations

import heapq
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from flashback import below, clock, disk, manifest, picking, process
from flashback.errors import FlashbackError, NotNowError
from flashback.ledger import Damage, Ledger, Place, asked, opened, shown
from flashback.manifest import SICK, UNKNOWN, Entry, ManifestError
from flashback.model import Config, Job, Pulse, Snapshot, iso

# What looking at one name costs, as bytes of the budget: on a USB disk a seek for a few names.
LOOK = 1024
# Seconds between two writings of the cursor.
NOTE_EVERY = 10.0
# So many errors in one slice mean that the disk or its cable is bad: reading on would only hurt it.
SICK_AT = 16
# So many bad files in one slice speak of the disk, the cable or the memory: nothing is taken away then.
MANY = 100
# A night's slice may take this long, in seconds.
LONG = 86400.0


@dataclass(frozen=True)
class Slice:
    """What one slice did; `found` is new damage, `healed` what was healed, `open` what is left damaged."""

    files: int
    bytes: int
    seconds: float
    found: tuple[Damage, ...] = ()
    healed: tuple[Damage, ...] = ()
    open: tuple[Damage, ...] = ()
    complete: bool = False
    """Whether all that was asked for was read; for the nightly slice, once round the disk."""
    notes: tuple[str, ...] = ()


def run(
    config: Config,
    target: str | None = None,
    *,
    budget: int | None = None,
    everything: bool = False,
    pulse: Pulse = process.no_pulse,
    now: Callable[[], datetime] = clock.now,
) -> Slice:
    """Read a slice again, then heal; without a target it goes on where the last one ended.

    `budget` is in bytes. Without one it is the configuration's, less what a large file took too much the
    night before; there is none for a target and for `everything`.
    """
    from flashback import heal  # noqa: PLC0415 - it reads stored data with this module

    disk.require(config)
    nightly = target is None and not everything and budget is None
    with opened(config.data_dir) as ledger:
        owed = ledger.number("owed") if nightly else 0
        reading = Reading(config, ledger, pulse, now, config.verify_bytes - owed if nightly else budget)
        try:
            complete = reading.round(volumes(config, target), rotating=target is None)
        finally:
            reading.finish(nightly)
        healed, notes = heal.run(config, ledger, pulse, now, gently=len(reading.found) >= MANY)
        if target is None:
            ledger.write(verified_at=(iso(now()) or "").encode())
        return Slice(
            reading.files,
            reading.bytes,
            time.monotonic() - reading.began,
            tuple(reading.found),
            tuple(healed),
            tuple(ledger.damage()),
            complete,
            (*reading.notes, *notes),
        )


def apart(config: Config, pulse: Pulse = process.no_pulse) -> str:
    """Run the nightly slice in a process of its own at idle priority; return what it said."""
    argv = ["nice", "-n", "19", "ionice", "-c", "3", sys.executable, "-m", "flashback"]
    argv += ["-c", str(config.path), "verify"]
    done = process.run(argv, pulse=pulse, timeout=LONG)
    said = " ".join((done.stdout + done.stderr).split())
    if done.code == NotNowError.exit_code:
        raise NotNowError(said)
    # Exit 1 with a word on stdout is damage, which the ledger holds; anything else is a failure.
    if done.code not in (0, 1) or not done.stdout.strip():
        raise FlashbackError(f"Verifying failed: {said}" if said else "Verifying took too long")
    return said


def damage(config: Config) -> list[Damage]:
    """Return the stored files known to be damaged; nothing when there is no ledger."""
    return asked(config.data_dir, lambda ledger: ledger.damage()) or []


def verified_at(config: Config) -> datetime | None:
    """Return when the last slice ended."""
    return asked(config.data_dir, lambda ledger: ledger.moment("verified_at"))


def forget(config: Config, names: Sequence[str]) -> list[Damage]:
    """Take damage off the list, by a name that `flashback damage` shows or by HOST/VOLUME/PATH."""
    disk.require(config)
    gone = []
    with opened(config.data_dir) as ledger:
        for each in ledger.damage():
            if {*each.names, f"{each.host}/{each.volume}/{shown(each.path)}"} & set(names):
                ledger.forget(each)
                gone.append(each)
    return gone


# --- what there is to read ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Volume:
    """All labels of a volume, which may share data."""

    host: str
    name: str
    jobs: tuple[Job, ...]

    @property
    def key(self) -> str:
        """Return HOST/VOLUME."""
        return f"{self.host}/{self.name}"


def volumes(config: Config, target: str | None) -> list[Volume]:
    """Return the volumes on the disk that a target names, in a fixed order."""
    jobs = sorted(picking.stored_jobs(config, target), key=lambda job: (job.host, job.volume, job.label))
    pairs = groupby(jobs, key=lambda job: (job.host, job.volume))
    return [Volume(host, name, tuple(each)) for (host, name), each in pairs]


class Trees:
    """The sealed snapshots of a volume, each opened when it is first needed."""

    def __init__(self, config: Config, volume: Volume) -> None:
        self.config = config
        self._open: dict[tuple[str, str], int] = {}
        self.snapshots: dict[tuple[str, str], tuple[Job, Snapshot]] = {
            (job.label, each.name): (job, each)
            for job in volume.jobs
            for each in reversed(manifest.sealed(config, job))
        }

    def top(self, place: tuple[str, str]) -> int:
        """Return a descriptor of a snapshot's directory; raise FileNotFoundError when it is gone."""
        if place not in self._open:
            self._open[place] = below.open_tree(self.snapshots[place][1].path)
        return self._open[place]

    def alive(self, place: tuple[str, str]) -> bool:
        """Return whether a snapshot still bears its name: an expiry takes that first."""
        try:
            seen = self.snapshots[place][1].path.lstat()
        except FileNotFoundError:
            return False
        return place not in self._open or os.path.samestat(seen, os.fstat(self._open[place]))

    def entries(self, place: tuple[str, str], after: bytes = b"") -> Iterator[Entry]:
        """Yield what the manifest of a snapshot holds behind a path."""
        job, snapshot = self.snapshots[place]
        return manifest.read(manifest.place(self.config, job, snapshot.name), after)

    def close(self) -> None:
        """Close what was opened."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


Found = tuple[tuple[str, str], Entry]


def _merged(trees: Trees, after: bytes, notes: list[str]) -> Iterator[tuple[bytes, list[Found]]]:
    """Yield each path with what all snapshots say about it, in the manifests' order."""

    def stream(place: tuple[str, str]) -> Iterator[tuple[bytes, tuple[str, str], Entry]]:
        try:
            for entry in trees.entries(place, after):
                yield manifest.order(entry.path), place, entry
        except FileNotFoundError:
            return
        except ManifestError as error:
            job, snapshot = trees.snapshots[place]
            path = manifest.place(trees.config, job, snapshot.name)
            # It is kept as evidence and made anew, with what its neighbours know.
            path.replace(path.with_name(f"{path.name}.damaged"))
            notes.append(f"{error.what}: set aside, it will be made again")

    streams = [stream(place) for place in trees.snapshots]
    merged = heapq.merge(*streams, key=lambda item: item[0])
    for _, group in groupby(merged, key=lambda item: item[0]):
        items = [(place, entry) for _, place, entry in group]
        yield items[0][1].path, items


# --- reading -----------------------------------------------------------------------------------------------


class Pace:
    """Keeps reading below a rate, in bytes per second."""

    def __init__(self, rate: int, pulse: Pulse) -> None:
        self._rate = max(1, rate)
        self._pulse = pulse
        self._due = time.monotonic()

    def __call__(self, size: int) -> None:
        """Take the time that so many bytes may take; unused time is not saved up."""
        self._due = max(self._due, time.monotonic() - 1.0) + size / self._rate
        while (left := self._due - time.monotonic()) > 0:
            self._pulse()
            time.sleep(min(left, 0.5))


class _SpentError(Exception):
    """The budget of this slice is spent."""


class Reading:
    """One slice: how far it is, what it read and what it found."""

    def __init__(
        self, config: Config, ledger: Ledger, pulse: Pulse, now: Callable[[], datetime], budget: int | None
    ) -> None:
        self._config, self._ledger, self._pulse, self._now = config, ledger, pulse, now
        self._pace = Pace(config.verify_rate, pulse)
        self._left = budget
        self._cursor: tuple[str, bytes] | None = None
        self._noted = self.began = time.monotonic()
        self._errors = 0
        self._just_read: OrderedDict[tuple[int, bytes], bool] = OrderedDict()
        self._known = {(each.host, each.volume, each.inode, each.digest) for each in ledger.damage()}
        self.files = self.bytes = 0
        self.found: list[Damage] = []
        self.notes: list[str] = []

    def round(self, wanted: list[Volume], *, rotating: bool) -> bool:
        """Read until the budget is spent or everything was read; return whether it was."""
        if self._left is not None and self._left <= 0:
            return False
        try:
            if not rotating:
                for volume in wanted:
                    self._read(volume, b"", None)
                return True
            at = self._ledger.fact("volume").decode()
            path = self._ledger.fact("path")
            here = [volume for volume in wanted if volume.key == at]
            self._cursor = (at, path)
            for volume in here:
                self._read(volume, path, None)
            for volume in [each for each in wanted if each.key > at] + [
                each for each in wanted if each.key < at
            ]:
                self._read(volume, b"", None)
            for volume in here:
                self._read(volume, b"", path)
        except _SpentError:
            return False
        self._ledger.write(round_at=(iso(self._now()) or "").encode())
        return True

    def finish(self, nightly: bool) -> None:
        """Write down how far this slice came and what it took too much."""
        self._note()
        if nightly and self._left is not None:
            self._ledger.write(owed=b"%d" % max(0, -self._left))

    def _note(self) -> None:
        if self._cursor is not None:
            self._ledger.write(volume=self._cursor[0].encode(), path=self._cursor[1])
        self._noted = time.monotonic()

    def _read(self, volume: Volume, after: bytes, until: bytes | None) -> None:
        """Read a volume from behind one path up to and with another."""
        trees = Trees(self._config, volume)
        self._just_read.clear()
        try:
            for path, found in _merged(trees, after, self.notes):
                if until is not None and manifest.order(path) > manifest.order(until):
                    return
                self._pulse()
                by_content: dict[tuple[bytes, int, bytes], list[Found]] = {}
                for place, entry in found:
                    by_content.setdefault((entry.kind, entry.inode, entry.digest), []).append((place, entry))
                for same in by_content.values():
                    self._check(volume, trees, same)
                if self._cursor is not None:
                    self._cursor = (volume.key, path)
                    if time.monotonic() - self._noted > NOTE_EVERY:
                        self._note()
        finally:
            trees.close()

    def _check(self, volume: Volume, trees: Trees, same: list[Found]) -> None:
        """Look at one file under all the snapshots that share it."""
        entry = same[0][1]
        self._spend(LOOK * len(same), entry.size if entry.kind == b"f" else 0)
        bad: list[Place] = []
        kind = reason = ""
        seen: dict[int, tuple[str, str]] = {}
        for place, each in same:
            problem, why = self._look(trees, place, each, seen)
            if problem and trees.alive(place):
                bad.append(Place(*place, each.path))
                kind, reason = kind or problem, reason or why
        if not bad:
            return
        self._report(
            Damage(
                volume.host,
                volume.name,
                entry.path,
                kind,
                entry.size,
                entry.mtime_ns,
                entry.inode,
                entry.digest,
                self._now(),
                tuple(bad),
                reason=reason,
            )
        )

    def _look(
        self, trees: Trees, place: tuple[str, str], entry: Entry, seen: dict[int, tuple[str, str]]
    ) -> tuple[str, str]:
        """Return the kind of damage that one name shows, and what is wrong in words; or nothing."""
        try:
            status = os.stat(entry.path, dir_fd=trees.top(place), follow_symlinks=False)
            if problem := judge(entry, status):
                return problem
            if entry.kind == b"l":
                target = os.readlink(entry.path, dir_fd=trees.top(place))
                right = manifest.link_digest(target) == entry.digest
                return ("", "") if right else ("altered", "the link points elsewhere")
            if entry.kind != b"f":
                return "", ""
            if status.st_ino not in seen:
                seen[status.st_ino] = self._content(trees.top(place), entry, status)
            return seen[status.st_ino]
        except (FileNotFoundError, NotADirectoryError):
            return "missing", "it is not there any more"
        except OSError as error:
            if error.errno not in SICK:
                raise
            self._errors += 1
            if self._errors >= SICK_AT:
                raise FlashbackError(
                    f"The backup disk gives errors: {error.strerror}",
                    "Nothing was changed. Look at the kernel's log, the cable and the disk",
                ) from None
            return "unreadable", f"the disk gives an error: {error.strerror}"

    def _content(self, top: int, entry: Entry, status: os.stat_result) -> tuple[str, str]:
        """Return what is wrong with a file's content."""
        key = (status.st_ino, entry.digest)
        if status.st_nlink > 1 and key in self._just_read:
            return "", ""
        made = manifest.digest(top, entry.path, self._pulse, self._count)
        self.files += 1
        if entry.digest in (made, UNKNOWN):
            if status.st_nlink > 1:
                self._just_read[key] = True
                if len(self._just_read) > manifest.LINKS:
                    self._just_read.popitem(last=False)
            return "", ""
        return "rot", "its content is not what was stored, though size and time are"

    def _count(self, size: int) -> None:
        self.bytes += size
        if self._left is not None:
            self._left -= size
        self._pace(size)

    def _spend(self, look: int, size: int) -> None:
        """Take from the budget; a file larger than a whole slice is still read, and paid for later."""
        if self._left is not None:
            if self._left <= 0 or (size > self._left and self.files):
                raise _SpentError
            self._left -= look
        self._pace(look)

    def _report(self, damage: Damage) -> None:
        key = (damage.host, damage.volume, damage.inode, damage.digest)
        self._ledger.found(damage)
        if key not in self._known:
            self._known.add(key)
            self.found.append(damage)


def judge(entry: Entry, status: os.stat_result) -> tuple[str, str] | None:
    """Return how what lstat says differs from the manifest, or None; contents are not read."""
    if manifest.kind_of(status.st_mode) != entry.kind:
        return "altered", "it is another kind of thing now"
    if entry.kind != b"f":
        return None
    if status.st_size != entry.size:
        return "altered", f"it has {status.st_size} bytes instead of {entry.size}"
    if status.st_mtime_ns != entry.mtime_ns:
        return "altered", "its time is another one"
    return None
