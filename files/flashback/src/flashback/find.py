"""Find every version of a file, and say what differs between two snapshots.

Trees are walked folder by folder, so memory stays small whatever their size.  The same
inode, or the same size and time, means the same version; contents are compared only when
asked.  Nothing is written.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flashback.model import Config, Snapshot
from flashback.restore import listing


@dataclass(frozen=True)
class Version:
    """One version of a file with the first and the last snapshot that holds it."""

    job: str
    path: str
    size: int
    mtime_ns: int
    first: str
    last: str
    place: str
    """Where it can be copied from."""


@dataclass(frozen=True)
class Difference:
    """One path that differs: `what` is added, removed, or a list of content, mode, owner, time, type."""

    what: str
    path: str
    size: int


def versions(config: Config, pattern: str, target: str | None) -> Iterator[Version]:
    """Yield every version of every file whose name or path matches, job by job, by path and then by age.

    A pattern without wildcards matches names that contain it.
    """
    by_job: dict[str, list[Snapshot]] = {}
    for job, snapshot in listing(config, target):
        by_job.setdefault(job, []).append(snapshot)
    for job, snapshots in by_job.items():
        found: dict[str, list[Version]] = {}
        for snapshot in sorted(snapshots):
            for path, status in _matching(snapshot.path, pattern):
                _note(found.setdefault(path, []), job, path, snapshot, status)
        for path in sorted(found):
            yield from found[path]


def _note(known: list[Version], job: str, path: str, snapshot: Snapshot, status: os.stat_result) -> None:
    last = known[-1] if known else None
    if last is not None and (last.size, last.mtime_ns) == (status.st_size, status.st_mtime_ns):
        place, first = str(snapshot.path / path), last.first
        known[-1] = Version(job, path, status.st_size, status.st_mtime_ns, first, snapshot.name, place)
        return
    name, place = snapshot.name, str(snapshot.path / path)
    known.append(Version(job, path, status.st_size, status.st_mtime_ns, name, name, place))


def _matching(top: Path, pattern: str) -> Iterator[tuple[str, os.stat_result]]:
    plain = not any(sign in pattern for sign in "*?[")
    for path, status in _walk(top, ""):
        name = path.rpartition("/")[2]
        if (
            (plain and pattern in name)
            or fnmatch.fnmatchcase(name, pattern)
            or fnmatch.fnmatchcase(path, pattern)
        ):
            yield path, status


def _walk(top: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that is not a directory, in the order of the names, with paths relative to the top."""
    for name, status in sorted(_entries(top, folder).items()):
        path = f"{folder}/{name}" if folder else name
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(top, path)
        else:
            yield path, status


def differences(old: Path, new: Path, *, content: bool = False) -> Iterator[Difference]:
    """Yield what differs between two trees, in the order of the paths; with `content` bytes are compared."""
    yield from _differences(old, new, "", content)


def _differences(old: Path, new: Path, folder: str, content: bool) -> Iterator[Difference]:
    before, after = _entries(old, folder), _entries(new, folder)
    for name in sorted(before.keys() | after.keys()):
        path = f"{folder}/{name}" if folder else name
        one, other = before.get(name), after.get(name)
        for gone, what, top in ((one, "removed", old), (other, "added", new)):
            if gone is not None and (one is None or other is None):
                yield Difference(what, path, gone.st_size)
                if stat.S_ISDIR(gone.st_mode):
                    yield from (Difference(what, each, status.st_size) for each, status in _walk(top, path))
        if one is None or other is None:
            continue
        what = _changed(old / path, new / path, one, other, content)
        if what:
            yield Difference(what, path, other.st_size)
        # Where only one tree has a folder the other may have a link, which must not be followed.
        folders = (stat.S_ISDIR(one.st_mode), stat.S_ISDIR(other.st_mode))
        if all(folders):
            yield from _differences(old, new, path, content)
        elif folders[0]:
            yield from (Difference("removed", each, status.st_size) for each, status in _walk(old, path))
        elif folders[1]:
            yield from (Difference("added", each, status.st_size) for each, status in _walk(new, path))


def _changed(old: Path, new: Path, one: os.stat_result, other: os.stat_result, content: bool) -> str:
    """Return what differs between two entries of the same path, as words; nothing when they are equal."""
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return ""
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return "type"
    found = []
    if stat.S_ISREG(one.st_mode):
        same = (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
        if content and one.st_size == other.st_size:
            same = filecmp.cmp(old, new, shallow=False)
        found += [] if same else ["content"]
    if stat.S_ISLNK(one.st_mode) and old.readlink() != new.readlink():
        found.append("content")
    found += ["mode"] if one.st_mode != other.st_mode else []
    found += ["owner"] if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid) else []
    if not stat.S_ISDIR(one.st_mode) and "content" not in found and one.st_mtime_ns != other.st_mtime_ns:
        found.append("time")
    return ", ".join(found)


def _entries(top: Path, folder: str) -> dict[str, os.stat_result]:
    try:
        with os.scandir(top / folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
