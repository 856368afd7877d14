"""Find every version of a file.

Looks at names, sizes and times and opens no file.  Nothing is written.
"""

from __future__ import annotations

import fnmatch
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from flashback.beside import look, opened, walk
from flashback.model import Config, Snapshot
from flashback.picking import listing


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
        with opened([each.path for each in snapshots]) as trees:
            of_tree = dict(zip(trees, snapshots, strict=True))
            for path, holders in walk(trees):
                if matches(path):
                    yield from _versions(job, path, [(each, of_tree[each]) for each in holders])


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


def _versions(job: str, path: str, holders: Sequence[tuple[int, Snapshot]]) -> Iterator[Version]:
    """Yield the versions of one path, the oldest first; a folder has none."""
    known: Version | None = None
    before: tuple[int, int, int] | None = None
    for tree, snapshot in holders:
        status = look(tree, path)
        if status is None or stat.S_ISDIR(status.st_mode):
            continue
        place = f"{snapshot.path}/{path}"
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
