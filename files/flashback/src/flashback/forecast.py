"""Say when the disk will be full, from how full it was.

Arithmetic only: the slope is the median of the slopes between all pairs of samples
(Theil-Sen), so that one large expiry or one film collection does not tip it.  The range
beside it comes from the quartiles of the same slopes: half of all paces lie between.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from flashback.model import DiskUse

DAY = 86400.0
# Less history than this says nothing, in days.
ENOUGH = 5.0
# More samples than this only cost time: pairs grow with the square.
SAMPLES = 120
# Growth that would take longer than this to fill the disk is none, in days.
FAR = 10 * 365.0


@dataclass(frozen=True)
class Left:
    """The days until only the reserve is free; None where the disk does not fill up, or too little is known.

    `days_left_low` and `days_left_high` are what the faster and the slower quarter of the paces point to.
    """

    days_left: float | None = None
    days_left_low: float | None = None
    days_left_high: float | None = None


def days_left(samples: Sequence[DiskUse], reserve_percent: int) -> Left:
    """Return how long the space and the inodes last, whichever is at its end first."""
    thin = _thinned(samples)
    if not thin or _span(thin) < ENOUGH:
        return Left()
    found = [
        _left([(each.at, each.used) for each in thin], thin[-1].total * (1 - reserve_percent / 100)),
        _left([(each.at, each.inodes_used) for each in thin], float(thin[-1].inodes)),
    ]
    low, middle, high = (
        min((days for days in each if days is not None), default=None) for each in zip(*found, strict=True)
    )
    return Left(middle, low, high)


def sentence(samples: Sequence[DiskUse], reserve_percent: int) -> str:
    """Return when the disk will be full, in words."""
    if not samples or _span(samples) < ENOUGH:
        return f"too little history to say when the disk will be full: {_span(samples):.0f} days"
    left = days_left(samples, reserve_percent)
    if left.days_left is None or left.days_left > FAR:
        return "the disk does not fill up"
    if left.days_left < 1:
        return "the disk is full down to its reserve"
    return f"the disk is full in about {_spelled(left.days_left)}{_range(left)}"


def _range(left: Left) -> str:
    """Return the range in brackets, nothing where it says no more than the median."""
    middle, low = _spelled(left.days_left or 0), _spelled(left.days_left_low or 0)
    if left.days_left_high is None or left.days_left_high > FAR:
        return f" ({low} or much more)"
    high = _spelled(left.days_left_high)
    if low == high:
        return ""
    unit = middle.partition(" ")[2]
    if low.endswith(unit) and high.endswith(unit):
        low, high = low.partition(" ")[0], high.partition(" ")[0]
    return f" ({low} to {high})"


def _spelled(days: float) -> str:
    return f"{days:.0f} days" if days < 60 else f"{days / 30.4:.0f} months"


def _left(points: Sequence[tuple[datetime, int]], limit: float) -> tuple[float | None, ...]:
    """Return the days that are left at the fast, the median and the slow pace."""
    slopes = [
        (b[1] - a[1]) / ((b[0] - a[0]).total_seconds() / DAY)
        for a, b in combinations(points, 2)
        if (b[0] - a[0]).total_seconds() > 0
    ]
    if limit <= 0 or len(slopes) < 2:
        return None, None, None
    slow, median, fast = statistics.quantiles(slopes, n=4, method="inclusive")
    return tuple(
        max(0.0, (limit - points[-1][1]) / slope) if slope > 0 else None for slope in (fast, median, slow)
    )


def _thinned(samples: Sequence[DiskUse]) -> Sequence[DiskUse]:
    step = max(1, len(samples) // SAMPLES)
    return [*samples[:-1:step], samples[-1]] if samples else []


def _span(samples: Sequence[DiskUse]) -> float:
    return (samples[-1].at - samples[0].at).total_seconds() / DAY if samples else 0.0
