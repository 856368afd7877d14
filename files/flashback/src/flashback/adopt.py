"""Take over the tree of a flashback of 2014 without copying a file.

    HOST/VOLUME/LABEL.1 ... LABEL.N   ->  HOST/VOLUME/LABEL/2014-02-26T210518Z
    HOST/VOLUME/LABEL.0               ->  HOST/VOLUME/LABEL/incoming

A directory's time is the moment at which its backup was completed.  All is decided before
anything is touched and written to `.flashback/adopt.json`; then come only renames within one
file system.  An interrupted adoption is finished from that file.  The sacred rule: nothing is
deleted, nothing that is there already is replaced, and the order stays.
"""

from __future__ import annotations

import bisect
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from flashback import below, process
from flashback.config import name_problem
from flashback.disk import META, filesystem
from flashback.errors import BusyError, FlashbackError, UsageError
from flashback.model import SUSPECT, Job, Pulse, snapshot_name, snapshot_time
from flashback.retention import expired
from flashback.store.trees import INCOMING, SYNCED, names, sync, sync_directory, write_safely

JOURNAL = f"{META}/adopt.json"
_NUMBERED = re.compile(r"(?P<label>.+)\.(?P<number>0|[1-9]\d*)", re.DOTALL)
_RSNAPSHOT = re.compile(r"(hourly|daily|weekly|monthly|yearly|alpha|beta|gamma|delta)\.\d+")
# Earlier than this no backup was made; a plug without a battery began in 1970.
_EPOCH = int(datetime(2000, 1, 1, tzinfo=timezone.utc).timestamp())
# What an interrupted backup wrote in its last minutes may be hollow after a power cut, in ns.
_UNSURE = 600 * 10**9
# So many files tell whether times were kept in whole seconds.
_SAMPLE = 2000


@dataclass(frozen=True)
class Move:
    """One directory and the name that it gets, both below the mount point."""

    old: Path
    new: Path


@dataclass
class Plan:
    """What would be renamed, and what a person should know: what stays, and why; what happens next."""

    moves: list[Move] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def shown(path: Path | str) -> str:
    """Return a path that can be printed: one line, whatever its bytes are."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def plan(root: Path, tree: Path, jobs: Sequence[Job], now: datetime) -> Plan:
    """Return what adopting the hosts in `tree`, a folder of the disk mounted on `root`, would do."""
    tree = tree.resolve()
    if not tree.is_dir() or not tree.is_relative_to(root.resolve()):
        raise UsageError(
            f"{shown(tree)} is no folder of the backup disk",
            f"Name one below {root}: a rename cannot leave it",
        )
    found = _Survey(root.resolve(), {job.name: job for job in jobs}, int(now.timestamp()))
    found.hosts(tree)
    return found.plan


def unfinished(root: Path) -> list[Move]:
    """Return the renames of an adoption that was interrupted; none when there was none."""
    try:
        rows = json.loads((root / JOURNAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise FlashbackError(
            f"{root / JOURNAL} cannot be read: {error}",
            "It lists the renames of an interrupted adoption; move it away to plan the rest anew",
        ) from None
    return [Move(Path(old), Path(new)) for old, new in rows]


def begin(root: Path, moves: Sequence[Move]) -> None:
    """Write down what is going to be renamed; from now on it can be finished by `finish`."""
    for move in moves:
        if os.path.lexists(root / move.new):
            raise FlashbackError(f"{shown(root / move.new)} is there already", "Nothing was renamed")
    _refuse_while_used(root, moves)
    rows = [[str(move.old), str(move.new)] for move in moves]
    write_safely(root / JOURNAL, json.dumps(rows, indent=0) + "\n")


def finish(root: Path, pulse: Pulse = process.no_pulse) -> None:
    """Do the renames that are written down and not done yet."""
    moves = unfinished(root)
    for move in moves:
        if os.path.lexists(root / move.old) and os.path.lexists(root / move.new):
            raise FlashbackError(
                f"{shown(root / move.old)} and {shown(root / move.new)} are both there",
                f"Move one of them away; the rest of the adoption is listed in {root / JOURNAL}",
            )
    for move in moves:
        pulse()
        # One that is gone was renamed before, or somebody took it away meanwhile.
        if os.path.lexists(root / move.old):
            _rename(root, move, pulse)
    sync(root, pulse)
    (root / JOURNAL).unlink(missing_ok=True)
    sync_directory(root / META)


def _rename(root: Path, move: Move, pulse: Pulse) -> None:
    folder = _made(root, (root / move.new).parent)
    if move.new.name == INCOMING:
        # Before the tree gets this name: what it holds beyond this moment is not to be trusted.
        write_safely(folder / SYNCED, f"{_trusted_until(root / move.old, pulse)}\n")
    (root / move.old).rename(root / move.new)


def _made(root: Path, folder: Path) -> Path:
    """Return a folder, made with those above it if needed; they belong to who owns the disk's token."""
    missing = [each for each in (folder, *folder.parents) if each.is_relative_to(root) and not each.is_dir()]
    owner = (root / META).stat()
    for each in reversed(missing):
        each.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(each, owner.st_uid, owner.st_gid)
        sync_directory(each.parent)
    return folder


def _trusted_until(tree: Path, pulse: Pulse) -> int:
    """Return the ctime in ns before which an unfinished tree's files were surely written to the disk.

    Files with several names belong to a finished tree too, and say nothing about this one.
    """
    newest = 0
    for _, status in below.entries(tree, pulse):
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            newest = max(newest, status.st_ctime_ns)
    return newest - _UNSURE if newest else 0


def _refuse_while_used(root: Path, moves: Sequence[Move]) -> None:
    """Raise BusyError when a process works in one of the trees: an rsync that the old engine left."""
    trees = {str(root.resolve() / move.old) for move in moves}
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            where = entry.readlink()
        except OSError:
            continue
        if trees & {str(where), *map(str, where.parents)}:
            raise BusyError(
                f"Process {entry.parent.name} works in {shown(where)}",
                "Stop the old engine and its rsync first",
            )


# --- looking -----------------------------------------------------------------------------------------------


class _Survey:
    """Walks HOST/VOLUME and decides for each label."""

    def __init__(self, root: Path, jobs: dict[str, Job], now: int) -> None:
        self.plan = Plan()
        self._root = root
        self._jobs = jobs
        self._now = now
        self._btrfs = filesystem(root) == "btrfs"

    def hosts(self, tree: Path) -> None:
        for host in self._folders(tree):
            if tree == self._root and host.name in (META, "lost+found"):
                continue
            if _RSNAPSHOT.fullmatch(host.name):
                self._stays(host, "looks like a tree of rsnapshot, which mixes hosts in one snapshot")
                continue
            for volume in self._folders(host):
                self._volume(host.name, volume)

    def _volume(self, host: str, volume: Path) -> None:
        numbered: dict[str, dict[int, Path]] = {}
        for path in self._folders(volume):
            own = f"{host}/{volume.name}/{path.name}" in self._jobs or _is_label(path)
            found = None if own else _NUMBERED.fullmatch(path.name)
            if found:
                numbered.setdefault(found["label"], {})[int(found["number"])] = path
            elif not own:
                self._stays(path, "has no number, so it is no snapshot")
        for label, trees in sorted(numbered.items()):
            self._label((host, volume.name, label), trees)

    def _label(self, who: tuple[str, str, str], trees: dict[int, Path]) -> None:
        name, target = "/".join(who), self._root.joinpath(*who)
        problem = next((f"`{each}` {said}" for each in who if (said := name_problem(each))), None)
        unfinished_tree = trees.pop(0, None)
        if problem is None and os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
            problem = f"{target.name} is no folder"
        if problem:
            self.plan.notes.append(f"{shown(name)}.*: {shown(problem)}; stays")
            return
        times = {number: tree.stat().st_mtime_ns // 10**9 for number, tree in trees.items()}
        there = sorted(filter(None, (snapshot_time(each.removeprefix(SUSPECT)) for each in names(target))))
        last = int(there[0].timestamp()) - 1 if there else self._now
        if there and any(last < each <= self._now for each in times.values()):
            since = f"is newer than {snapshot_name(there[0])}, which the new engine has made already"
            self.plan.notes.append(f"{name}.*: {since}; stays")
            return
        oldest_first = sorted(trees, reverse=True)
        taken = moments([times[number] for number in oldest_first], last)
        for number, moment in zip(oldest_first, taken, strict=True):
            self._move(trees[number], target / snapshot_name(_utc(moment)))
            if moment != times[number]:
                given = snapshot_name(_utc(moment))
                self.plan.notes.append(
                    f"{name}.{number}: its time, {_utc(times[number]):%Y-%m-%d %H:%M:%S}, "
                    f"cannot be in this order; it becomes {given}"
                )
        if unfinished_tree is not None:
            self._unfinished(unfinished_tree, target)
        if oldest_first:
            self._foresee(name, trees[oldest_first[-1]], [*map(_utc, taken), *there])

    def _unfinished(self, tree: Path, target: Path) -> None:
        if self._btrfs:
            self._stays(tree, "is unfinished, and on btrfs a backup cannot go on from it")
        elif os.path.lexists(target / INCOMING):
            self._stays(tree, "is unfinished, and the new engine has begun a backup of its own")
        else:
            self._move(tree, target / INCOMING)

    def _foresee(self, name: str, newest: Path, taken: list[datetime]) -> None:
        """Note what the next backup will do to what is taken over."""
        job = self._jobs.get(name)
        if job is None:
            self.plan.notes.append(
                f"{name}: no job has this name; its snapshots stay for good and get no successor"
            )
            return
        gone = expired(taken, job.keep)
        if gone:
            self.plan.notes.append(
                f"{name}: `keep` lets {len(gone)} of {len(taken)} go after the next backup"
            )
        if _whole_seconds(newest) and "--modify-window=0" not in job.rsync_options:
            self.plan.notes.append(
                f"{name}: its files have times in whole seconds, as rsync before 3.1 kept them. The next "
                "backup would store most of them once more and be held back; with `rsync_options: "
                "[--modify-window=0]` it links them, but misses a file that changes within one second and "
                "keeps its size"
            )

    def _folders(self, above: Path) -> Iterator[Path]:
        """Yield the real folders of this disk, sorted; note all else."""
        device = self._root.stat().st_dev
        for name in names(above):
            path = above / name
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                self._stays(path, "is a symbolic link")
            elif not stat.S_ISDIR(status.st_mode):
                self._stays(path, "is no folder")
            elif status.st_dev != device:
                self._stays(path, "lies on another file system")
            else:
                yield path

    def _move(self, old: Path, new: Path) -> None:
        self.plan.moves.append(Move(old.relative_to(self._root), new.relative_to(self._root)))

    def _stays(self, path: Path, reason: str) -> None:
        self.plan.notes.append(f"{shown(path.relative_to(self._root))}: {reason}; stays")


def _is_label(path: Path) -> bool:
    """Return whether a folder holds snapshots of the new engine."""
    return any(snapshot_time(name.removeprefix(SUSPECT)) for name in names(path))


def _whole_seconds(tree: Path) -> bool:
    """Return whether none of the first files has a fraction of a second in its time."""
    seen = 0
    for _, status in below.entries(tree, process.no_pulse):
        if stat.S_ISREG(status.st_mode):
            if status.st_mtime_ns % 10**9:
                return False
            seen += 1
            if seen == _SAMPLE:
                break
    return seen > 0


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


# --- times -------------------------------------------------------------------------------------------------


def moments(times: Sequence[int], last: int) -> list[int]:
    """Return a moment for each tree, given oldest first: strictly rising, none after `last`.

    As many as possible keep their own time; the others get one beside their neighbour's.
    """
    trusted = _longest_rise(times, last)
    if not trusted:
        return list(range(last - len(times) + 1, last + 1))
    first = trusted[0]
    made = [times[first] - first + place for place in range(first)]
    for place in range(first, len(times)):
        earliest = made[-1] + 1 if made else times[place]
        made.append(max(earliest, times[place]) if place in trusted else earliest)
    for place in range(len(made) - 1, -1, -1):
        made[place] = min(made[place], last)
        last = made[place] - 1
    return made


def _longest_rise(times: Sequence[int], last: int) -> list[int]:
    """Return the places of a longest strictly rising series of times that can be."""
    ends: list[int] = []
    places: list[int] = []
    before: dict[int, int | None] = {}
    for place, time in enumerate(times):
        if _EPOCH <= time <= last:
            at = bisect.bisect_left(ends, time)
            ends[at : at + 1] = [time]
            before[place] = places[at - 1] if at else None
            places[at : at + 1] = [place]
    rise: list[int] = []
    at_place = places[-1] if places else None
    while at_place is not None:
        rise.append(at_place)
        at_place = before[at_place]
    return rise[::-1]
