"""The rules of expiry: what they promise they keep, and the newest is never lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from flashback import clock
from flashback.model import Keep
from flashback.retention import expired, explain
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

START = datetime(2020, 1, 1, 3, tzinfo=timezone.utc)
MOMENTS = st.lists(
    st.integers(0, 4 * 365 * 24).map(lambda hours: START + timedelta(hours=hours)), max_size=60
)
SOME = st.integers(0, 6)
KEEPS = st.builds(Keep, last=SOME, hourly=SOME, daily=SOME, weekly=SOME, monthly=SOME, yearly=SOME)


@given(MOMENTS, KEEPS)
def test_the_newest_stays_whatever_the_rules_say(taken: list[datetime], keep: Keep) -> None:
    assert not taken or max(taken) not in expired(taken, keep)


@given(MOMENTS, KEEPS)
def test_expiring_twice_removes_nothing_more(taken: list[datetime], keep: Keep) -> None:
    left = set(taken) - set(expired(taken, keep))
    assert expired(left, keep) == []


@given(MOMENTS, KEEPS, st.sampled_from(["last", "hourly", "daily", "weekly", "monthly", "yearly"]))
def test_a_larger_number_never_costs_a_snapshot(taken: list[datetime], keep: Keep, rule: str) -> None:
    more = Keep(**{**vars(keep), rule: getattr(keep, rule) + 1})
    assert set(expired(taken, more)) <= set(expired(taken, keep))


@given(MOMENTS.filter(bool), st.data())
def test_marked_and_proven_ones_stay(taken: list[datetime], data: st.DataObject) -> None:
    marked, proven = data.draw(st.sampled_from(taken)), data.draw(st.sampled_from(taken))
    assert not {marked, proven} & set(expired(taken, Keep(last=1), marked=[marked], proven=proven))


def test_years_of_daily_backups_leave_exactly_what_the_rules_promise() -> None:
    keep, held = Keep(daily=7, weekly=4, monthly=12, yearly=3), set[datetime]()
    for day in range(5 * 365):
        held.add(START + timedelta(days=day))
        held -= set(expired(held, keep))
    newest = max(held)
    assert {newest - timedelta(days=back) for back in range(7)} <= held
    assert len({moment.isocalendar()[:2] for moment in held}) >= 4
    assert len({(moment.year, moment.month) for moment in held}) >= 12
    assert {moment.year for moment in held} >= {newest.year, newest.year - 1, newest.year - 2}
    assert len(held) <= 7 + 4 + 12 + 3


def test_the_hour_that_comes_twice_in_autumn_is_two_hours() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc)
    taken = [first, first + timedelta(hours=1)]
    assert expired(taken, Keep(hourly=2), zone=ZoneInfo("Europe/Berlin")) == []


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process live where summer time ends on 25 October 2026 and begins on 28 March 2027."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


MOMENTS_OF_YEARS = st.lists(
    st.integers(0, 2 * 365 * 48).map(lambda halves: START + timedelta(minutes=30 * halves)), max_size=40
)


# Midnights in Berlin.
SUMMER = datetime(2026, 7, 1, 22, tzinfo=timezone.utc)
WINTER = datetime(2026, 1, 1, 23, tzinfo=timezone.utc)


@pytest.mark.usefixtures("berlin")
@given(MOMENTS_OF_YEARS, KEEPS)
@example([SUMMER - timedelta(minutes=30), SUMMER + timedelta(minutes=30)], Keep(daily=2))
@example([WINTER - timedelta(minutes=30), WINTER + timedelta(minutes=30)], Keep(daily=2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_days_begin_at_the_midnight_of_their_own_season(taken: list[datetime], keep: Keep) -> None:
    """Whenever it is asked, summer or winter: the wall clock of a moment is the one it had then."""
    assert explain(taken, keep, zone=clock.zone()) == explain(taken, keep, zone=ZoneInfo("Europe/Berlin"))


@pytest.mark.usefixtures("berlin")
def test_the_system_knows_the_two_hours_of_autumn_apart() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc)
    assert expired([first, first + timedelta(hours=1)], Keep(hourly=2), zone=clock.zone()) == []
    local = [each.astimezone(clock.zone()) for each in (first, first + timedelta(hours=1))]
    assert [(each.hour, each.fold, each.tzname()) for each in local] == [(2, 0, "CEST"), (2, 1, "CET")]
    assert [each.utcoffset() for each in local] == [timedelta(hours=2), timedelta(hours=1)]


def test_every_decision_is_explained() -> None:
    taken = [START, START + timedelta(days=1), START + timedelta(days=2)]
    said = explain(taken, Keep(last=1), marked=[START])
    assert [reasons for _, reasons in said] == [
        ("marked by a person",),
        (),
        ("the newest of all", "number 1 of the newest 1"),
    ]
