"""Take over the tree of a flashback of 2014 without copying a file.

    HOST/VOLUME/LABEL.1 ... LABEL.N   ->  HOST/VOLUME/LABEL/2014-02-26T210518Z
    HOST/VOLUME/LABEL.0               ->  HOST/VOLUME/LABEL/incoming.1

A directory's time is the moment at which its backup was completed.  Everything is a rename
within one file system, so an interrupted adoption is simply begun again.  The sacred rule:
nothing is deleted, nothing that is there already is replaced, and the order stays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from flashback.config import name_problem
from flashback.disk import META
from flashback.errors import FlashbackError
from flashback.model import snapshot_name, snapshot_time

_NUMBERED = re.compile(r"(?P<label>.+)\.(?P<number>\d+)")


@dataclass(frozen=True)
class Move:
    """One directory and the name that it gets, both below the mount point."""

    old: Path
    new: Path


def plan(root: Path, now: datetime) -> tuple[list[Move], list[str]]:
    """Return what would be renamed, and what stays as it is with the reason."""
    moves: list[Move] = []
    left: list[str] = []
    for volume in sorted(path for path in root.glob("*/*") if path.is_dir() and path.parts[-2] != META):
        moves += _of_volume(root, volume, now, left)
    return moves, left


def carry_out(root: Path, moves: list[Move]) -> None:
    """Do the renames."""
    for move in moves:
        folder = (root / move.new).parent
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.path.lexists(root / move.new):
            raise FlashbackError(f"{root / move.new} is there already", "Nothing more was renamed")
        (root / move.old).rename(root / move.new)
    os.sync()


def _of_volume(root: Path, volume: Path, now: datetime, left: list[str]) -> Iterator[Move]:
    host = volume.parent.name
    numbered: dict[str, dict[int, Path]] = {}
    for path in sorted(volume.iterdir()):
        found = _NUMBERED.fullmatch(path.name)
        if found and path.is_dir() and not path.is_symlink():
            numbered.setdefault(found["label"], {})[int(found["number"])] = path
        elif not path.is_dir():
            left.append(f"{path.relative_to(root)}: not a snapshot, stays")
    for label, trees in numbered.items():
        problem = next(filter(None, map(name_problem, (host, volume.name, label))), None)
        if problem:
            left.append(f"{host}/{volume.name}/{label}: {problem}")
            continue
        target = (volume / label).relative_to(root)
        # What an interrupted adoption has renamed already is older: it began with the oldest.
        taken = _newest_there(root / target)
        for number in sorted((each for each in trees if each > 0), reverse=True):
            taken = _moment(trees[number], taken, now)
            yield Move(trees[number].relative_to(root), target / snapshot_name(taken))
        if 0 in trees:
            yield Move(trees[0].relative_to(root), target / f"incoming.{_free_number(root / target)}")


def _moment(tree: Path, before: datetime | None, now: datetime) -> datetime:
    """Return a directory's time, pushed a second behind the one before it where the order demands."""
    taken = datetime.fromtimestamp(int(tree.stat().st_mtime), timezone.utc)
    taken = min(taken, now.replace(microsecond=0))
    if before is None or taken > before:
        return taken
    if before - taken > timedelta(days=1):
        raise FlashbackError(
            f"{tree} is older than the snapshot {snapshot_name(before)}, which is there already",
            "Old trees can be taken over only before the first backup of the new engine",
        )
    return before + timedelta(seconds=1)


def _newest_there(label: Path) -> datetime | None:
    names = os.listdir(label) if label.is_dir() else []  # noqa: PTH208 - names are what is wanted
    return max(filter(None, map(snapshot_time, names)), default=None)


def _free_number(label: Path) -> int:
    taken = (
        [int(path.name.rpartition(".")[2]) for path in label.glob("incoming.[0-9]*")]
        if label.is_dir()
        else []
    )
    return max(taken, default=0) + 1
