"""What the guard holds back, what it lets pass, and how changes are counted."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from flashback.changes import count, from_figures, walk
from flashback.guard import Totals, judge, turnover
from flashback.model import Changes, JobState, Run
from flashback.process import no_pulse
from hypothesis import given
from hypothesis import strategies as st

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
BEFORE = Totals(1000, 1_000_000)


def run(snapshot: str, regular: int, changed: int) -> Run:
    return Run("a/b/c", AT, AT, JobState.SUCCEEDED, snapshot=snapshot, regular=regular, changed=changed)


@given(st.integers(0, 500), st.integers(0, 5000))
def test_ordinary_nights_cry_no_wolf(altered: int, added: int) -> None:
    kept = 1000 - altered
    assert judge(Changes(1000 + added, 10**6, kept, kept * 1000), BEFORE, [], 50) is None


@given(st.integers(501, 1000), st.integers(0, 1000))
def test_mass_loss_or_change_is_held_back(gone: int, back: int) -> None:
    kept = 1000 - gone
    assert judge(Changes(max(1, kept + back), 10**6, kept, kept * 1000), BEFORE, [], 50)


@given(st.integers(1, 10**6), st.lists(st.floats(0, 1), max_size=30))
def test_an_emptied_source_is_always_held_back(files: int, usual: list[float]) -> None:
    assert judge(Changes(0, 0, 0, 0), Totals(files, files), usual, 100)


def test_first_snapshots_and_small_trees_pass() -> None:
    assert judge(Changes(5, 5, 0, 0), Totals(0, 0), [], 50) is None
    assert judge(Changes(5, 5, 0, 0), Totals(19, 19), [], 50) is None


def test_what_a_job_does_every_night_is_no_alarm() -> None:
    nights = [run(f"2026-01-{day:02}T030000Z", 1000, 800) for day in range(9, 1, -1)]
    assert judge(Changes(1000, 10**6, 200, 200_000), BEFORE, turnover(nights), 50) is None


def test_accepted_nights_are_learned_and_rejected_ones_are_not() -> None:
    nights = [run(f"suspect-2026-01-{day:02}T030000Z", 1000, 900) for day in range(9, 4, -1)]
    accepted = {night.snapshot.removeprefix("suspect-") for night in nights if night.snapshot}
    tonight = Changes(1000, 10**6, 100, 100_000)
    assert judge(tonight, BEFORE, turnover(nights), 50)
    assert judge(tonight, BEFORE, turnover(nights, accepted), 50) is None


def test_changes_are_counted_by_walking_both_trees(tmp_path: Path) -> None:
    old, new = os.fsencode(tmp_path / "old"), os.fsencode(tmp_path / "new")
    for top in (old, new):
        Path(os.fsdecode(top + b"/d")).mkdir(parents=True)
    for name in (b"same\n", b"-d\xff", b"d/" + b"x" * 255):
        Path(os.fsdecode(old + b"/" + name)).write_bytes(b"1234")
        os.link(old + b"/" + name, new + b"/" + name)
    Path(os.fsdecode(old + b"/gone")).write_bytes(b"12")
    Path(os.fsdecode(old + b"/altered")).write_bytes(b"1")
    Path(os.fsdecode(new + b"/altered")).write_bytes(b"123")
    Path(os.fsdecode(old + b"/turned")).mkdir()
    Path(os.fsdecode(old + b"/turned/in")).write_bytes(b"1")
    Path(os.fsdecode(new + b"/turned")).write_bytes(b"1")
    Path(os.fsdecode(new + b"/fresh")).mkdir()
    Path(os.fsdecode(new + b"/fresh/in")).write_bytes(b"1")
    Path(os.fsdecode(new + b"/link")).symlink_to("same")
    wanted = (Changes(6, 17, 3, 12), Totals(6, 16))
    assert walk(tmp_path / "old", tmp_path / "new") == wanted
    assert count(tmp_path / "old", tmp_path / "new", no_pulse) == wanted


def test_the_figures_of_rsync_tell_the_same() -> None:
    assert from_figures(10, 1000, 3, 250) == Changes(10, 1000, 7, 750)


@given(st.integers(1, 2000), st.integers(0, 100), st.lists(st.floats(0, 1), max_size=30))
def test_another_disk_at_the_same_place_is_held_back(files: int, percent: int, usual: list[float]) -> None:
    kept = files * percent // 100
    before, changes = Totals(files, files * 10), Changes(files, files * 10, kept, kept * 10)
    said = judge(changes, before, usual, 100, moved=True)
    assert (said is not None and "another file system" in said) == (files - kept > files * 0.1)


def test_a_replaced_disk_that_was_copied_is_no_stranger() -> None:
    assert judge(Changes(1000, 10**6, 1000, 10**6), BEFORE, [], 50, moved=True) is None
