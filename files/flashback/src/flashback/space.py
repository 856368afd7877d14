"""Decide when the disk is too full, and which snapshots make room.

Arithmetic only.  The sacred rule: no job falls below its floor of snapshots, and what a
person marked, what was proven restorable and the newest of a job never make room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashback.disk import Disk

# A transfer ends when less than this share of the reserve is left.
LAST_PART = 0.25
# ... or less than this, in bytes, whatever the reserve.
LEAST = 16 << 20

Victims = Iterator[tuple[str, datetime]]


@dataclass(frozen=True)
class Shortage:
    """What is missing to the reserve: `kind` is `space` or `inodes`; shares are percent of the disk."""

    kind: str
    free: float
    wanted: int

    def __str__(self) -> str:
        """Return it as part of a sentence."""
        what = "free space" if self.kind == "space" else "free inodes"
        return f"{self.free:.1f} % {what}, wanted are {self.wanted} %"


def shortage(disk: Disk, reserve_percent: int, reserve_inodes_percent: int) -> Shortage | None:
    """Return what is missing to the reserve, or None when there is enough."""
    if disk.total and 100 * disk.free < reserve_percent * disk.total:
        return Shortage("space", 100 * disk.free / disk.total, reserve_percent)
    if disk.inodes and 100 * disk.inodes_free < reserve_inodes_percent * disk.inodes:
        return Shortage("inodes", 100 * disk.inodes_free / disk.inodes, reserve_inodes_percent)
    return None


def running_out(disk: Disk, reserve_percent: int, reserve_inodes_percent: int) -> bool:
    """Return whether so little of the reserve is left that a transfer has to end before the disk is full."""
    if not disk.present or not disk.total:
        return False
    space = 100 * disk.free < LAST_PART * reserve_percent * disk.total or disk.free < LEAST
    inodes = bool(disk.inodes) and 100 * disk.inodes_free < LAST_PART * reserve_inodes_percent * disk.inodes
    return space or inodes


def victims(
    snapshots: Mapping[str, Sequence[datetime]], spared: Mapping[str, Collection[datetime]], floor: int
) -> Victims:
    """Yield (job, snapshot) in the order in which they make room: the oldest of all jobs first."""
    left = {job: len(taken) for job, taken in snapshots.items()}
    candidates = sorted(
        (moment, job)
        for job, taken in snapshots.items()
        for moment in sorted(taken)[:-1]
        if moment not in spared.get(job, ())
    )
    for moment, job in candidates:
        if left[job] > max(floor, 1):
            left[job] -= 1
            yield job, moment


def sentence(short: Shortage, floor: int) -> str:
    """Return what to tell a person when nothing may make room any more."""
    return (
        f"The backup disk has {short}, and no job may have fewer than {floor} snapshots: use a larger disk, "
        "back up less, or lower space.floor"
    )
