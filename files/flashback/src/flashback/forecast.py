"""Say when the disk will be full, from how full it was.

Arithmetic only: the slope is the median of the slopes between all pairs of samples
(Theil-Sen), so that one large expiry or one film collection does not tip it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
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


def days_left(samples: Sequence[DiskUse], reserve_percent: int) -> float | None:
    """Return the days until only the reserve is free, None when it does not grow or too little is known."""
    thin = _thinned(samples)
    if not thin or _span(thin) < ENOUGH:
        return None
    found = [
        _left([(each.at, each.used) for each in thin], thin[-1].total * (1 - reserve_percent / 100)),
        _left([(each.at, each.inodes_used) for each in thin], float(thin[-1].inodes)),
    ]
    return min((days for days in found if days is not None), default=None)


def sentence(samples: Sequence[DiskUse], reserve_percent: int) -> str:
    """Return when the disk will be full, in words."""
    if not samples or _span(samples) < ENOUGH:
        return f"too little history to say when the disk will be full: {_span(samples):.0f} days"
    days = days_left(samples, reserve_percent)
    if days is None or days > FAR:
        return "the disk does not fill up"
    if days < 1:
        return "the disk is full down to its reserve"
    if days < 60:
        return f"the disk is full in about {days:.0f} days"
    return f"the disk is full in about {days / 30.4:.0f} months"


def _left(points: Sequence[tuple[datetime, int]], limit: float) -> float | None:
    slopes = [
        (b[1] - a[1]) / ((b[0] - a[0]).total_seconds() / DAY)
        for a, b in combinations(points, 2)
        if (b[0] - a[0]).total_seconds() > 0
    ]
    slope = statistics.median(slopes) if slopes else 0.0
    if limit <= 0 or slope <= 0:
        return None
    return max(0.0, (limit - points[-1][1]) / slope)


def _thinned(samples: Sequence[DiskUse]) -> Sequence[DiskUse]:
    step = max(1, len(samples) // SAMPLES)
    return [*samples[:-1:step], samples[-1]] if samples else []


def _span(samples: Sequence[DiskUse]) -> float:
    return (samples[-1].at - samples[0].at).total_seconds() / DAY if samples else 0.0
