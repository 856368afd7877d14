"""Prove that files can be given back: restore some, and compare them with what was stored.

A random snapshot of a client lends a random handful of files, its newest one all files that are new
in it (up to a size and a number).  They are restored by rsync as a person's restore does, hashed against the
manifest, and compared with the client when it is there.  The result bears its date.

It writes into `.flashback/drill` alone and always empties it.  The sacred rule: a drill is good only
when every file came back with the right content, size and time; less is a failure that names the file.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from flashback import below, clock, disk, heal, manifest, picking, process, transfer
from flashback.errors import FlashbackError, NotNowError, StoppedError, UsageError
from flashback.ledger import asked, opened, shown
from flashback.manifest import UNKNOWN, Entry, ManifestError
from flashback.model import Config, Job, Pulse, Snapshot, snapshot_time
from flashback.verify import judge

FOLDER = "drill"
# Bytes that one drill restores at most, of new files and of random ones each.
MOST = 200_000_000
# And of the free space at most this share.
SHARE = 0.2
# New files that one drill restores at most: memory holds them all.
NEW_FILES = 10_000
LONG = 86400.0
# Problems that are named; more are counted.
NAMED = 20


@dataclass(frozen=True)
class Result:
    """How a drill went; `compared` counts files that are the same at the client, -1 when it was away."""

    host: str
    at: datetime
    good: bool
    snapshots: tuple[str, ...]
    """HOST/VOLUME/LABEL/SNAPSHOT of what was restored from."""
    files: int
    bytes: int
    seconds: float
    compared: int = -1
    problems: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Return in a sentence what went wrong, or nothing."""
        more = f" and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
        return f"{self.problems[0]}{more}" if self.problems else ""


def hosts(config: Config) -> list[str]:
    """Return the clients that have a snapshot with a manifest."""
    return sorted({job.host for job in picking.stored_jobs(config, None) if manifest.sealed(config, job)})


def due(config: Config, now: datetime) -> list[str]:
    """Return the clients of the configuration whose last drill is too long ago, and that can have one."""
    configured = {job.host for job in config.jobs if not job.disabled}
    before = last(config)
    limit = timedelta(seconds=config.drill_every)
    return [
        host
        for host in hosts(config)
        if host in configured and (host not in before or not timedelta(0) <= now - before[host].at < limit)
    ]


def last(config: Config) -> dict[str, Result]:
    """Return the last drill of each client."""
    rows = asked(config.data_dir, lambda ledger: ledger.last_drills()) or []
    return {host: _result(host, at, good, said) for host, at, good, said in rows}


def proven(config: Config, job: Job) -> datetime | None:
    """Return the newest snapshot of a job from which a restore was proven; retention never expires it."""
    names = asked(config.data_dir, lambda ledger: ledger.proven(job.name)) or []
    for name in names:
        if (config.data_dir / job.name / name).is_dir():
            return snapshot_time(name)
    return None


def run(
    config: Config,
    host: str,
    *,
    seed: int | None = None,
    pulse: Pulse = process.no_pulse,
    now: Callable[[], datetime] = clock.now,
) -> Result:
    """Do the drill of one client now and write the result down."""
    disk.require(config)
    began = time.monotonic()
    stored = [
        (job, each) for job in picking.stored_jobs(config, host) for each in manifest.sealed(config, job)
    ]
    if not stored:
        raise UsageError(
            f"{host} has no snapshot with a manifest", "The first one is written after its next backup"
        )
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    tries = [
        _Try(config, *chance.choice(stored), pulse),
        _Try(config, *max(stored, key=lambda each: each[1].taken), pulse),
    ]
    room = int(min(MOST, disk.look(config).free * SHARE))
    try:
        tries[0].sample(chance, config.drill_files, room)
        tries[1].add_new(room)
    except ManifestError as error:
        raise FlashbackError(error.what, "`flashback verify` sets it aside and it is made again") from None
    for each in tries:
        each.restore()
    result = Result(
        host=host,
        at=now(),
        good=not any(each.problems for each in tries),
        snapshots=tuple(dict.fromkeys(each.name for each in tries if each.wanted)),
        files=sum(len(each.wanted) for each in tries),
        bytes=sum(each.bytes for each in tries),
        seconds=round(time.monotonic() - began, 1),
        compared=-1
        if all(each.compared < 0 for each in tries)
        else sum(max(0, each.compared) for each in tries),
        problems=tuple(problem for each in tries for problem in each.problems)[:NAMED],
    )
    _write_down(config, result, tries)
    return result


def apart(config: Config, host: str, pulse: Pulse = process.no_pulse) -> str:
    """Do the drill of one client in a process of its own at idle priority; return what it said."""
    argv = ["nice", "-n", "19", "ionice", "-c", "3", sys.executable, "-m", "flashback"]
    argv += ["-c", str(config.path), "drill", host]
    done = process.run(argv, pulse=pulse, timeout=LONG)
    said = " ".join((done.stdout + done.stderr).split())
    # Exit 1 with a word on stdout is a drill that failed, which the ledger holds.
    if done.code not in (0, 1) or not done.stdout.strip():
        raise FlashbackError(f"The drill of {host} could not be done: {said or 'it took too long'}")
    return said


def _write_down(config: Config, result: Result, tries: Sequence[_Try]) -> None:
    said: dict[str, object] = {
        "snapshots": list(result.snapshots),
        "files": result.files,
        "bytes": result.bytes,
        "seconds": result.seconds,
        "compared": result.compared,
        "problems": list(result.problems),
    }
    with opened(config.data_dir) as ledger:
        for each in tries:
            if each.problems:
                ledger.disprove(each.job.name, each.snapshot.taken)
        good = [
            (each.job.name, each.snapshot.taken)
            for each in tries
            if each.wanted and not any(other.problems and other.name == each.name for other in tries)
        ]
        ledger.add_drill(result.host, result.at, result.good, said, good)


def _result(host: str, at: datetime, good: bool, said: dict[str, object]) -> Result:
    snapshots, problems = said["snapshots"], said["problems"]
    assert isinstance(snapshots, list)  # noqa: S101 - _write_down makes it so
    assert isinstance(problems, list)  # noqa: S101 - as above
    return Result(
        host,
        at,
        good,
        tuple(str(each) for each in snapshots),
        int(str(said["files"])),
        int(str(said["bytes"])),
        float(str(said["seconds"])),
        int(str(said["compared"])),
        tuple(str(each) for each in problems),
    )


class _Try:
    """Some files of one snapshot, chosen, restored, compared."""

    def __init__(self, config: Config, job: Job, snapshot: Snapshot, pulse: Pulse) -> None:
        self._config, self._pulse = config, pulse
        self.job, self.snapshot = job, snapshot
        self.wanted: dict[bytes, Entry] = {}
        self.bytes = 0
        self.compared = -1
        self.problems: list[str] = []

    @property
    def name(self) -> str:
        """Return HOST/VOLUME/LABEL/SNAPSHOT."""
        return f"{self.job.name}/{self.snapshot.name}"

    def sample(self, chance: random.Random, count: int, room: int) -> None:
        """Choose so many files, each as likely as any other; those that do not fit are left out."""
        chosen: list[Entry] = []
        for number, entry in enumerate(self._files()):
            if number < count:
                chosen.append(entry)
            elif (at := chance.randrange(number + 1)) < count:
                chosen[at] = entry
        for entry in sorted(chosen, key=lambda each: each.size):
            if self.bytes + entry.size <= room:
                self._want(entry)

    def add_new(self, room: int) -> None:
        """Choose the files that the snapshot before does not share, until they are too many bytes."""
        before = [
            each for each in manifest.sealed(self._config, self.job) if each.taken < self.snapshot.taken
        ]
        older = iter(self._files_of(before[-1])) if before else iter(())
        known = next(older, None)
        for entry in self._files():
            wanted = manifest.order(entry.path)
            while known is not None and manifest.order(known.path) < wanted:
                known = next(older, None)
            same = known is not None and (known.path, known.inode, known.digest) == (
                entry.path,
                entry.inode,
                entry.digest,
            )
            # Each file counts for what it takes on the disk at least.
            fits = len(self.wanted) < NEW_FILES and self.bytes + len(self.wanted) * 4096 + entry.size <= room
            if not same and fits:
                self._want(entry)

    def _want(self, entry: Entry) -> None:
        self.wanted[entry.path] = entry
        self.bytes += entry.size

    def _files(self) -> Iterator[Entry]:
        return self._files_of(self.snapshot)

    def _files_of(self, snapshot: Snapshot) -> Iterator[Entry]:
        place = manifest.place(self._config, self.job, snapshot.name)
        return (each for each in manifest.read(place) if each.kind == b"f" and each.digest != UNKNOWN)

    def restore(self) -> None:
        """Restore what was chosen into scratch, compare it, remove it."""
        if not self.wanted:
            return
        with _scratch(self._config) as scratch:
            names = scratch / "wanted"
            names.write_bytes(b"\0".join(self.wanted) + b"\0")
            target = scratch / "restored"
            target.mkdir(mode=0o700)
            # As restore does it, with the names in a file: there may be many, of any form.
            argv = ["rsync", *transfer.KEEP_ALL, "--relative", "--from0", f"--files-from={names}", "--", "./"]
            done = process.run([*argv, f"{target}/"], cwd=self.snapshot.path, timeout=LONG, pulse=self._pulse)
            self._compare(target)
            if done.code != 0 and not self.problems:
                self.problems.append(
                    f"{self.name}: {transfer.judge(done.code, done.stderr, done.timed_out).note}"
                )
            if not self.problems:
                self._ask_client(names, target, scratch)

    def _compare(self, target: Path) -> None:
        """Hash what was restored against the manifest."""
        top = below.open_tree(target)
        try:
            for path, entry in self.wanted.items():
                try:
                    status = os.stat(path, dir_fd=top, follow_symlinks=False)
                    problem = judge(entry, status)
                    if problem is None and manifest.digest(top, path, self._pulse) != entry.digest:
                        problem = ("rot", "its content is not what was stored")
                except FileNotFoundError:
                    problem = ("missing", "it did not come back")
                if problem is not None:
                    self.problems.append(f"{self.name}/{shown(path)}: {problem[1]}")
        finally:
            os.close(top)

    def _ask_client(self, names: Path, target: Path, scratch: Path) -> None:
        """Let rsync compare with the client; a file that has the same size and time must be the same."""
        jobs = [
            each
            for each in self._config.jobs
            if (each.host, each.volume) == (self.job.host, self.job.volume)
            and each.copy_of is None
            and not each.disabled
        ]
        if not jobs or jobs[0].source.startswith("rsync://"):
            return
        job = jobs[0]
        try:
            address = heal.present(self._config, job, self._pulse)
        except StoppedError:
            raise
        except FlashbackError:
            return
        options = ("--dry-run", "--checksum", "--from0", f"--files-from={names}", "--out-format=<%i> %n")
        argv = transfer.command(job, address, target.name, options)
        said = _Lines()
        env = {} if job.local else {"RSYNC_RSH": transfer.shell(self._config, job)}
        done = process.run(
            argv, cwd=scratch, env=env, timeout=job.timeout, pulse=self._pulse, on_output=said.feed
        )
        # 23 and 24: files that the client does not have any more.
        if done.code not in (0, 23, 24):
            return
        self.compared = len(self.wanted) - len(said.changed) - done.stderr.count("No such file or directory")
        for name, how in said.changed.items():
            # `>fcst......`: checksum, size, time. The checksum alone means rot here or there.
            if how[2] == "c" and how[3] == "." and how[4] == ".":
                self.problems.append(
                    f"{self.name}/{name}: the client has the same size and time, but other content"
                )


class _Lines:
    """Reads rsync's list of changes as it comes."""

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            found = re.match(r"<([<>ch.*][f][^>]*)> (.*)", line)
            if found:
                self.changed[found[2]] = found[1].ljust(11, ".")


@contextmanager
def _scratch(config: Config) -> Iterator[Path]:
    """Make an empty directory on the backup disk and remove it, whatever happens."""
    folder = config.data_dir / disk.META / FOLDER
    # What a killed drill left; two drills at a time are kept apart by the daemon.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise NotNowError(f"{folder} cannot be emptied", "Remove it by hand")
