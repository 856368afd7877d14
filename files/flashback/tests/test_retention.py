"""The rules of expiry: what they promise they keep, and the newest is never lost."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from flashback.model import Keep
from flashback.retention import expired, explain
from hypothesis import given
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


def test_every_decision_is_explained() -> None:
    taken = [START, START + timedelta(days=1), START + timedelta(days=2)]
    said = explain(taken, Keep(last=1), marked=[START])
    assert [reasons for _, reasons in said] == [
        ("marked by a person",),
        (),
        ("the newest of all", "number 1 of the newest 1"),
    ]
