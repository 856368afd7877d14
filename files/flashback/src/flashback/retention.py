"""Decide which finished snapshots may be deleted.

Everything here is arithmetic on dates: no disk is read and nothing is removed.  The store
does the deleting.

A snapshot is kept when at least one rule keeps it: it is among the newest `last`, or it is
the newest of one of the most recent hours, days, ISO weeks, months or years that hold a
snapshot.  The sacred rule: the newest is kept whatever the settings say, and so are those
that a person marked and the last one from which a restore was proven.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timezone, tzinfo

from flashback.model import Keep

PERIODS: dict[str, tuple[str, Callable[[datetime], tuple[int, ...]]]] = {
    "hourly": ("hour", lambda at: (*at.timetuple()[:4], at.fold)),
    "daily": ("day", lambda at: (at.year, at.month, at.day)),
    "weekly": ("week", lambda at: tuple(at.isocalendar())[:2]),
    "monthly": ("month", lambda at: (at.year, at.month)),
    "yearly": ("year", lambda at: (at.year,)),
}


def expired(
    taken: Iterable[datetime],
    keep: Keep,
    *,
    marked: Collection[datetime] = (),
    proven: datetime | None = None,
    zone: tzinfo = timezone.utc,
) -> list[datetime]:
    """Return the snapshots that nothing keeps, oldest first; `zone` is where days and weeks begin."""
    explained = explain(taken, keep, marked=marked, proven=proven, zone=zone)
    return [moment for moment, reasons in explained if not reasons]


def explain(
    taken: Iterable[datetime],
    keep: Keep,
    *,
    marked: Collection[datetime] = (),
    proven: datetime | None = None,
    zone: tzinfo = timezone.utc,
) -> list[tuple[datetime, tuple[str, ...]]]:
    """Return every snapshot, oldest first, with what keeps it in plain words; nothing means it may go."""
    newest_first = sorted(set(taken), reverse=True)
    reasons: dict[datetime, list[str]] = {moment: [] for moment in newest_first}
    for place, moment in enumerate(newest_first[: keep.last]):
        reasons[moment].append(f"number {place + 1} of the newest {keep.last}")
    for rule, (word, period) in PERIODS.items():
        wanted: int = getattr(keep, rule)
        seen: set[tuple[int, ...]] = set()
        for moment in newest_first:
            which = period(moment.astimezone(zone))
            if which not in seen and len(seen) < wanted:
                seen.add(which)
                reasons[moment].append(f"newest of its {word}, {len(seen)} of {wanted}")
    if newest_first:
        reasons[newest_first[0]].insert(0, "the newest of all")
    for moment in newest_first:
        if moment in marked:
            reasons[moment].append("marked by a person")
        if moment == proven:
            reasons[moment].append("the last one from which a restore was proven")
    return [(moment, tuple(reasons[moment])) for moment in reversed(newest_first)]
