"""Find every version of a file; walk several trees side by side.

Looks at names, sizes and times and opens no file.  Nothing is written.  Folders are read one at a
time, and of a folder with very many entries only a part is held, so memory stays small whatever
the size of the trees.  The sacred rule: a link is an entry like any other and is never followed.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

from flashback.errors import NotNowError
from flashback.model import Config, Snapshot
from flashback.restore import listing

# Names of a folder that are held at once: about 10 MB. A fuller folder is read in parts.
CROWD = 50_000


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
    snapshots: int = 1
    """How many snapshots hold it; fewer than lie between the two when it was away for a time."""


def versions(config: Config, pattern: str, target: str | None) -> Iterator[Version]:
    """Yield every version of every file whose name or path matches, job by job, by path and then by age.

    A file that keeps its kind, size and time is the same version, in however many snapshots it lies.  A
    pattern without wildcards matches names that contain it, or paths when it has a slash.
    """
    matches = matcher(pattern)
    found = sorted(listing(config, target), key=lambda each: each[0])
    for job, group in groupby(found, key=lambda each: each[0]):
        snapshots = sorted(snapshot for _, snapshot in group)
        tops = [str(each.path) for each in snapshots]
        for path in walk(tops):
            if matches(path):
                yield from _versions(job, path, snapshots)
        present(snapshots)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return what decides whether a path, relative to its volume, matches a pattern."""
    plain = not any(sign in pattern for sign in "*?[")
    wanted = pattern.lstrip("/")
    if plain and "/" in wanted:
        return lambda path: wanted in path
    if plain:
        return lambda path: wanted in path.rpartition("/")[2]
    return lambda path: (
        fnmatch.fnmatchcase(path.rpartition("/")[2], wanted) or fnmatch.fnmatchcase(path, wanted)
    )


def _versions(job: str, path: str, snapshots: Sequence[Snapshot]) -> Iterator[Version]:
    """Yield the versions of one path, the oldest first; a folder has none."""
    known: Version | None = None
    before: tuple[int, int, int] | None = None
    for snapshot in snapshots:
        place = f"{snapshot.path}/{path}"
        status = look(place)
        if status is None or stat.S_ISDIR(status.st_mode):
            continue
        mark = (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns)
        if known is not None and mark == before:
            known = replace(known, last=snapshot.name, place=place, snapshots=known.snapshots + 1)
            continue
        if known is not None:
            yield known
        name, before = snapshot.name, mark
        known = Version(job, path, status.st_size, status.st_mtime_ns, name, name, place)
    if known is not None:
        yield known


def present(snapshots: Sequence[Snapshot]) -> None:
    """Raise NotNowError when one of them was expired meanwhile: what was seen of it may not be all.

    An expiring snapshot loses its name before its first file, so one that bears it is whole.
    """
    for each in snapshots:
        if not each.path.is_dir():
            raise NotNowError(
                f"{each.path} expired while it was read", "Try it again with those that are left"
            )


def walk(tops: Sequence[str]) -> Iterator[str]:
    """Yield every path below any of the trees once, a folder before what is in it.

    In the order of the names, but for folders of more than CROWD entries.
    """
    pending = [("", _names(tops, range(len(tops)), ""))]
    while pending:
        folder, names = pending[-1]
        for name, holders in names:
            path = folder + name
            yield path
            if holders:
                pending.append((f"{path}/", _names(tops, holders, path)))
                break
        else:
            pending.pop()


def look(path: str) -> os.stat_result | None:
    """Return what is known of an entry; None when it is not there."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _names(tops: Sequence[str], holders: Sequence[int], folder: str) -> Iterator[tuple[str, list[int]]]:
    """Yield each name of a folder once, with the numbers of the trees in which it is a folder itself."""
    known: dict[str, list[int]] = {}
    for number in holders:
        for name, is_folder in _entries(f"{tops[number]}/{folder}"):
            folders = known.setdefault(name, [])
            if is_folder:
                folders.append(number)
            if len(known) > CROWD:
                yield from _crowd(tops, holders, folder)
                return
    yield from sorted(known.items())


def _crowd(tops: Sequence[str], holders: Sequence[int], folder: str) -> Iterator[tuple[str, list[int]]]:
    """Yield the same for a folder whose names are too many to be held."""
    for position, number in enumerate(holders):
        entries = _entries(f"{tops[number]}/{folder}")
        while part := sorted(islice(entries, CROWD)):
            for name, _ in part:
                places = [f"{tops[each]}/{folder}/{name}" for each in holders]
                if any(look(place) for place in places[:position]):
                    continue
                found = [look(place) for place in places]
                yield (
                    name,
                    [
                        each
                        for each, status in zip(holders, found, strict=True)
                        if status is not None and stat.S_ISDIR(status.st_mode)
                    ],
                )


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Yield (name, whether it is a folder) of a folder; nothing when it is not there any more."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return
