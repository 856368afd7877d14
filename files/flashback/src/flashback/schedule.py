"""Decide which job is due, in which order, what holds it, when it is late, and whether the clock is right.

Everything here is arithmetic: the time comes in as an argument, nothing is read and
nothing is run.  Ages come from the names of the snapshots, which are UTC, so neither a
time zone nor a copied directory's mtime can make a job late or early.

The sacred rule: a job without any snapshot is always due, and so is one whose newest
snapshot lies in the future: a stepped clock never silences a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from flashback.model import Job, Presence, Window

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# A board without a battery wakes up in 1970 or at the build date of its kernel.
EARLIEST = datetime(2024, 1, 1, tzinfo=timezone.utc)
# Two clocks that are both right may differ by this much, in seconds.
TOLERANCE = 2
_FORM = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class Standing:
    """All that decides about a job at a moment."""

    job: Job
    newest: datetime | None
    original: datetime | None = None
    """For a job taken from another label: that label's newest snapshot."""
    failed: bool = False
    """Whether its last attempt failed."""
    paused_until: datetime | None = None
    presences: tuple[Presence, ...] = ()
    """What the probes of its client said, the oldest first; nothing for local sources."""


@dataclass(frozen=True)
class Lateness:
    """Whether somebody should be told: `kind` is empty, `late` or `away`; `seconds` is how long."""

    kind: str = ""
    seconds: int = 0


def age(newest: datetime | None, now: datetime) -> int:
    """Return the age of the newest snapshot in seconds; without one, the time since 1970."""
    return int((now - (newest or EPOCH)).total_seconds())


def due_in(standing: Standing, now: datetime) -> int:
    """Return the seconds until the job is due; zero or less means it is."""
    if standing.newest is not None and age(standing.newest, now) < -TOLERANCE:
        return 0
    return standing.job.period - age(standing.newest, now)


def is_due(standing: Standing, now: datetime) -> bool:
    """Return whether the job should run now; a disabled one never does."""
    if standing.job.disabled:
        return False
    return standing.newest is None or due_in(standing, now) <= 0


def held(standing: Standing, now: datetime, local: datetime) -> str:
    """Return why a job that is due has to wait all the same, or nothing. `local` is now on the wall clock."""
    job = standing.job
    if standing.paused_until is not None and now < standing.paused_until:
        return f"paused until {standing.paused_until.astimezone(local.tzinfo):%Y-%m-%d %H:%M}"
    if job.copy_of is not None:
        if standing.original is None:
            return f"waiting for the first snapshot of {job.copy_of}"
        if standing.newest is not None and standing.original <= standing.newest:
            return f"waiting for a newer snapshot of {job.copy_of}"
    window = next((each for each in job.blackouts if within(each, local)), None)
    if job.always_on and window is not None:
        return f"not between {_clock(window.start)} and {_clock(window.end)}"
    return ""


def within(window: Window, local: datetime) -> bool:
    """Return whether a moment of the wall clock lies in a window of the week."""
    minute, day = local.hour * 60 + local.minute, local.weekday()
    if window.start < window.end:
        return day in window.days and window.start <= minute < window.end
    return (day in window.days and minute >= window.start) or (
        (day - 1) % 7 in window.days and minute < window.end
    )


def in_order(standings: Iterable[Standing], now: datetime) -> list[Standing]:
    """Return all jobs, the most overdue first; then those that failed; the disabled ones last.

    A job that fails for hours, again and again, would otherwise keep all others from their turn.
    """
    return sorted(
        standings, key=lambda each: (each.job.disabled, each.failed, due_in(each, now), each.job.name)
    )


def due(standings: Iterable[Standing], now: datetime, local: datetime) -> list[Job]:
    """Return the jobs to run now, the most overdue first."""
    ordered = in_order(standings, now)
    return [each.job for each in ordered if is_due(each, now) and not held(each, now, local)]


def lateness(standing: Standing, now: datetime) -> Lateness:
    """Return whether a job is late, or its client away, for longer than its limits allow.

    Only time counts during which the client was there and the job was due: a holiday is no failure. But a
    client that shows up for minutes a day and is never backed up is one, so nothing is overdue for longer
    than the client may be away.
    """
    job = standing.job
    if job.disabled:
        return Lateness()
    away = _away(standing, now)
    if away > job.away_limit:
        return Lateness("away", away)
    overdue = -due_in(standing, now)
    if standing.newest is not None and overdue > job.away_limit:
        return Lateness("late", overdue)
    waited = due_while_present(standing, now)
    return Lateness("late", waited) if waited > job.late_after else Lateness()


def due_while_present(standing: Standing, now: datetime) -> int:
    """Return for how many seconds the job has been due while its client was there."""
    if not is_due(standing, now):
        return 0
    since = EPOCH if standing.newest is None else standing.newest + timedelta(seconds=standing.job.period)
    if standing.job.copy_of is not None:
        # Until there is something new to copy nothing is late but the original.
        if standing.original is None or (
            standing.newest is not None and standing.original <= standing.newest
        ):
            return 0
        return age(max(since, standing.original), now)
    if standing.job.local:
        return age(since, now) if standing.newest is not None else 0
    spans = [(max(each.since, since), each.until) for each in standing.presences if each.present]
    return int(sum(max(0.0, (end - begin).total_seconds()) for begin, end in spans))


def _away(standing: Standing, now: datetime) -> int:
    """Return for how many seconds the client has been away; 0 when the last probe found it."""
    if not standing.presences or standing.presences[-1].present:
        return 0
    seen = [each.until for each in standing.presences if each.present]
    return age(seen[-1] if seen else standing.presences[0].since, now)


def explain(standing: Standing, now: datetime, local: datetime) -> list[str]:
    """Return in plain words why a job does or does not run now, as far as the calendar decides."""
    job, lines = standing.job, []
    if job.disabled:
        return ["it is disabled in the configuration"]
    if standing.newest is None:
        lines.append("it has no snapshot yet, so it is due")
    elif age(standing.newest, now) < -TOLERANCE:
        lines.append(f"its newest snapshot ({standing.newest:{_FORM}} UTC) lies in the future, so it is due")
    else:
        ago, left = plain(age(standing.newest, now)), due_in(standing, now)
        every = plain(job.period)
        if left > 0:
            lines.append(f"its newest snapshot is {ago} old and it runs every {every}: due in {plain(left)}")
        else:
            lines.append(
                f"its newest snapshot is {ago} old and it runs every {every}: due since {plain(-left)}"
            )
    reason = held(standing, now, local)
    if reason and is_due(standing, now):
        lines.append(f"it waits: {reason}")
    if standing.failed:
        lines.append("its last attempt failed, so jobs that did not fail go first")
    lines += _presence_words(standing, now)
    return lines


def _presence_words(standing: Standing, now: datetime) -> list[str]:
    if not standing.presences:
        return []
    last = standing.presences[-1]
    if last.present:
        words = f"its client was there when last looked for, {plain(age(last.until, now))} ago"
        waited = due_while_present(standing, now)
        return [words] + ([f"it stayed due for {plain(waited)} while its client was there"] if waited else [])
    return [f"its client is away for {plain(_away(standing, now))} ({last.reason})"]


def spell(duration: int) -> str:
    """Return seconds as `5:31:37` or `1d+17:24:41`."""
    days, rest = divmod(max(0, duration), 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d+{clock}" if days else clock


def plain(duration: int) -> str:
    """Return seconds in words, to two units: `1 day`, `5 h 31 min`, `12 s`."""
    units = (("day", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, parts = max(0, duration), []
    for name, size in units:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}{'s' if name == 'day' and count > 1 else ''}")
    return " ".join(parts[:2]) or "0 s"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def clock_problem(
    newest: Sequence[datetime | None], now: datetime, *, synchronised: bool = False
) -> str | None:
    """Return why no snapshot may be named after this clock, or None when it may.

    A clock that is known to be synchronised is right, whatever a snapshot's name says (`misnamed`).
    """
    if synchronised:
        return None
    if now < EARLIEST:
        return f"the clock says {now:%Y-%m-%d}, which is impossible"
    latest = max((moment for moment in newest if moment is not None), default=None)
    if latest is not None and now < latest - timedelta(seconds=TOLERANCE):
        return f"the clock says {now:{_FORM}} UTC, earlier than the snapshot of {latest:{_FORM}} UTC"
    return None


def misnamed(taken: Sequence[datetime], now: datetime) -> list[tuple[datetime, datetime]]:
    """Return each snapshot that bears a time from the future with the one that it gets, the oldest first.

    Once the clock is known to be right, they were taken while it was ahead, some time after the newest of
    the others: named the next seconds after that one they keep their order and make their job due.
    """
    ahead = [each for each in sorted(taken) if age(each, now) < -TOLERANCE]
    before = max((each for each in taken if each not in ahead), default=now - timedelta(days=365))
    return [(each, before + timedelta(seconds=place)) for place, each in enumerate(ahead, start=1)]
