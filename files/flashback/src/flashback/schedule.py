"""Decide which job is due, in which order, and whether the clock can be trusted.

Everything here is arithmetic: the time comes in as an argument, nothing is read and
nothing is run.  Ages come from the names of the snapshots, which are UTC, so neither a
time zone nor a copied directory's mtime can make a job late or early.

The sacred rule: a job without any snapshot is always due.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from flashback.model import Job

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# A board without a battery wakes up in 1970 or at the build date of its kernel.
EARLIEST = datetime(2024, 1, 1, tzinfo=timezone.utc)
# Two clocks that are both right may differ by this much, in seconds.
TOLERANCE = 2
_FORM = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class Standing:
    """A job and the moment of its newest snapshot, if it has one."""

    job: Job
    newest: datetime | None


def age(newest: datetime | None, now: datetime) -> int:
    """Return the age of the newest snapshot in seconds; without one, the time since 1970."""
    return int((now - (newest or EPOCH)).total_seconds())


def due_in(standing: Standing, now: datetime) -> int:
    """Return the seconds until the job is due; zero or less means it is."""
    return standing.job.period - age(standing.newest, now)


def is_due(standing: Standing, now: datetime) -> bool:
    """Return whether the job should run now; a disabled one never does."""
    if standing.job.disabled:
        return False
    return standing.newest is None or due_in(standing, now) <= 0


def in_order(standings: Iterable[Standing], now: datetime) -> list[Standing]:
    """Return all jobs, the most overdue first, the disabled ones last."""
    return sorted(standings, key=lambda each: (each.job.disabled, due_in(each, now), each.job.name))


def due(standings: Iterable[Standing], now: datetime) -> list[Job]:
    """Return the jobs to run now, the most overdue first."""
    return [each.job for each in in_order(standings, now) if is_due(each, now)]


def clock_problem(newest: Sequence[datetime | None], now: datetime) -> str | None:
    """Return why no snapshot may be named after this clock, or None when it may."""
    if now < EARLIEST:
        return f"the clock says {now:%Y-%m-%d}, which is impossible"
    latest = max((moment for moment in newest if moment is not None), default=None)
    if latest is not None and now < latest - timedelta(seconds=TOLERANCE):
        return f"the clock says {now:{_FORM}} UTC, earlier than the snapshot of {latest:{_FORM}} UTC"
    return None
