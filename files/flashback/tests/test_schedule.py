"""When a job runs, what holds it, and when somebody is told: tables and properties, no clock is read."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from flashback import config, pause, schedule
from flashback.errors import UsageError
from flashback.model import Job, Presence
from flashback.schedule import Lateness, Standing
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)  # a Monday
HOUR, DAY = 3600, 86400
JOB = Job("laptop", "home", "daily", "/home", ("laptop",), period=DAY, late_after=DAY, away_limit=14 * DAY)


def ago(**duration: float) -> datetime:
    return NOW - timedelta(**duration)


def there(begin: float, end: float, *, present: bool = True) -> Presence:
    """Return a span from so many hours ago to so many hours ago."""
    return Presence(present, ago(hours=begin), ago(hours=end), "" if present else "does not answer")


def windows(*texts: str) -> Job:
    job = ", ".join(f'"{text}"' for text in texts)
    text = (
        f"data_dir: /d\nhosts: {{a: {{volumes: {{v: {{source: /x, jobs: {{d: {{blackouts: [{job}]}}}}}}}}}}}}"
    )
    (only,) = config.parse(text, Path("f")).jobs
    return dataclasses.replace(only, always_on=True)


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ("08:00-18:00", "2026-11-23 08:00", True),
        ("08:00-18:00", "2026-11-23 18:00", False),
        ("mon-fri 08:00-18:00", "2026-11-27 12:00", True),
        ("mon-fri 08:00-18:00", "2026-11-28 12:00", False),
        ("sat 00:00-24:00", "2026-11-28 23:59", True),
        ("sat 00:00-24:00", "2026-11-29 00:00", False),
        ("22:00-06:00", "2026-11-23 23:00", True),
        ("22:00-06:00", "2026-11-23 05:59", True),
        ("fri 22:00-06:00", "2026-11-28 05:00", True),
        ("fri 22:00-06:00", "2026-11-27 05:00", False),
        ("fri-mon 10:00-11:00", "2026-11-29 10:30", True),
        ("fri-mon 10:00-11:00", "2026-11-25 10:30", False),
    ],
)
def test_a_window_of_the_week(window: str, moment: str, inside: bool) -> None:
    (only,) = windows(window).blackouts
    assert schedule.within(only, datetime.fromisoformat(moment)) is inside


def test_a_blackout_holds_only_clients_that_are_always_on() -> None:
    server = windows("08:00-18:00")
    assert schedule.held(Standing(server, None), NOW, NOW) == "not between 08:00 and 18:00"
    laptop = dataclasses.replace(server, always_on=False)
    assert schedule.held(Standing(laptop, None), NOW, NOW) == ""
    assert schedule.due([Standing(server, None), Standing(laptop, None)], NOW, NOW) == [laptop]


def test_a_pause_holds_a_job_until_it_ends() -> None:
    paused = Standing(JOB, None, paused_until=NOW + timedelta(hours=1))
    assert "paused until 2026-11-23 13:00" in schedule.held(paused, NOW, NOW)
    assert schedule.held(paused, NOW + timedelta(hours=1), NOW) == ""


def test_b22_a_copy_waits_for_something_new_to_copy() -> None:
    weekly = dataclasses.replace(JOB, label="weekly", copy_of="daily", period=7 * DAY)
    assert "first snapshot of daily" in schedule.held(Standing(weekly, None), NOW, NOW)
    stale = Standing(weekly, ago(days=8), original=ago(days=8))
    assert "newer snapshot of daily" in schedule.held(stale, NOW, NOW)
    assert schedule.held(Standing(weekly, ago(days=8), original=ago(hours=3)), NOW, NOW) == ""


def test_a_job_that_fails_again_and_again_lets_the_others_go_first() -> None:
    failing = Standing(dataclasses.replace(JOB, host="broken"), ago(days=90), failed=True)
    fresh = Standing(JOB, ago(days=1, hours=1))
    assert schedule.due([failing, fresh], NOW, NOW) == [fresh.job, failing.job]


def test_b18_a_client_that_is_away_too_long_is_said_and_a_short_absence_is_not() -> None:
    def lateness(hours: float) -> Lateness:
        return schedule.lateness(
            Standing(JOB, ago(days=40), presences=(there(999, hours), there(hours, 0, present=False))), NOW
        )

    assert lateness(20 * 24).kind == "away"
    assert lateness(20 * 24).seconds == 20 * DAY


def test_a_holiday_shorter_than_the_limit_is_no_alarm() -> None:
    spans = (there(13 * 24, 13 * 24 - 1), there(13 * 24 - 1, 0, present=False))
    assert schedule.lateness(Standing(JOB, ago(days=13)), NOW).kind == ""
    assert schedule.lateness(Standing(JOB, ago(days=13), presences=spans), NOW).kind == ""


def test_a_client_never_seen_is_away_since_the_first_look() -> None:
    standing = Standing(JOB, None, presences=(there(15 * 24, 0, present=False),))
    assert schedule.lateness(standing, NOW) == Lateness("away", 15 * DAY)


def test_present_and_failing_for_a_day_is_late() -> None:
    due_since_26_hours = Standing(JOB, ago(hours=50), presences=(there(50, 0),))
    assert schedule.lateness(due_since_26_hours, NOW) == Lateness("late", 26 * HOUR)
    just_failing = Standing(JOB, ago(hours=30), presences=(there(50, 0),))
    assert schedule.lateness(just_failing, NOW) == Lateness()


def test_minutes_of_presence_a_day_end_in_an_alarm_all_the_same() -> None:
    glimpses = tuple(there(24 * day + 0.1, 24 * day) for day in range(30, -1, -1))
    assert schedule.lateness(Standing(JOB, ago(days=10), presences=glimpses), NOW).kind == ""
    assert schedule.lateness(Standing(JOB, ago(days=16), presences=glimpses), NOW).kind == "late"


def test_a_local_job_is_late_by_the_clock_alone() -> None:
    local = dataclasses.replace(JOB, local=True)
    assert schedule.lateness(Standing(local, ago(hours=49)), NOW).kind == "late"
    assert schedule.lateness(Standing(local, ago(hours=47)), NOW).kind == ""


def test_a_copy_is_not_late_while_there_is_nothing_new_to_copy() -> None:
    weekly = dataclasses.replace(JOB, label="weekly", copy_of="daily", period=7 * DAY)
    holiday = (there(999, 10 * 24), there(10 * 24, 0, present=False))
    waiting = Standing(weekly, ago(days=10), original=ago(days=10), presences=holiday)
    assert schedule.lateness(waiting, NOW) == Lateness()
    assert schedule.lateness(dataclasses.replace(waiting, original=ago(hours=3)), NOW) == Lateness()
    stuck = dataclasses.replace(waiting, original=ago(hours=26))
    assert schedule.lateness(stuck, NOW) == Lateness("late", 26 * HOUR)
    assert schedule.lateness(Standing(weekly, None, original=ago(hours=26)), NOW).kind == "late"


def test_b20_a_stepped_clock_makes_no_job_undue_for_ever() -> None:
    future = Standing(JOB, NOW + timedelta(days=4000))
    assert schedule.is_due(future, NOW)
    assert schedule.clock_problem([future.newest], NOW) is not None
    assert schedule.clock_problem([future.newest], NOW, synchronised=True) is None


def test_b20_snapshots_from_the_future_get_possible_names_that_keep_their_order() -> None:
    future, later = NOW + timedelta(days=4000), NOW + timedelta(days=4001)
    second = timedelta(seconds=1)
    assert schedule.misnamed([ago(days=3), ago(days=2), future, later], NOW) == [
        (future, ago(days=2) + second),
        (later, ago(days=2) + 2 * second),
    ]
    assert schedule.misnamed([ago(days=1), ago(days=2)], NOW) == []
    assert schedule.misnamed([], NOW) == []
    ((_, alone),) = schedule.misnamed([future], NOW)
    assert schedule.is_due(Standing(JOB, alone), NOW)


spans = st.lists(
    st.tuples(st.booleans(), st.integers(0, 5000), st.integers(0, 5000)).map(
        lambda each: Presence(
            each[0], ago(hours=max(each[1], each[2])), ago(hours=min(each[1], each[2])), "away"
        )
    ),
    max_size=8,
).map(lambda found: tuple(sorted(found, key=lambda each: each.since)))


@given(
    newest=st.one_of(st.none(), st.integers(-5000, 5000).map(lambda hours: ago(hours=hours))), presences=spans
)
def test_any_record_gives_an_answer_and_an_explanation(
    newest: datetime | None, presences: tuple[Presence, ...]
) -> None:
    standing = Standing(JOB, newest, presences=presences)
    assert schedule.explain(standing, NOW, NOW)
    assert schedule.lateness(standing, NOW).kind in ("", "late", "away")
    if newest is not None and newest > NOW - timedelta(days=1) and newest <= NOW:
        assert schedule.lateness(standing, NOW).kind != "late"


def test_a_pause_is_kept_on_the_disk_and_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / ".flashback").mkdir()
    end = pause.begin(tmp_path, "laptop/home", 3600, NOW)
    assert end == NOW + timedelta(hours=1)
    assert pause.of(pause.load(tmp_path, NOW), JOB) == end
    assert pause.load(tmp_path, end) == {}
    assert pause.of(pause.load(tmp_path, NOW), dataclasses.replace(JOB, volume="photos")) is None
    assert pause.end(tmp_path, "laptop/home", NOW)
    assert not pause.end(tmp_path, "laptop/home", NOW)


def test_a_pause_that_nobody_would_remember_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        pause.begin(tmp_path, "", 40 * DAY, NOW)


def test_a_damaged_file_of_pauses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / ".flashback").mkdir()
    (tmp_path / ".flashback/paused.json").write_text("[1")
    assert pause.load(tmp_path, NOW) == {}
