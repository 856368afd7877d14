"""When the disk will be full, told from samples."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import accumulate

import hypothesis.strategies as st
import pytest
from flashback.forecast import days_left, sentence
from flashback.model import DiskUse
from hypothesis import given

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def samples(days: int, growth: int, *, inodes: int = 0, files: int = 0) -> list[DiskUse]:
    return [
        DiskUse(START + timedelta(days=day), 1000 + growth * day, 10_000, files * day, inodes)
        for day in range(days)
    ]


def test_steady_growth_is_told_exactly() -> None:
    left = days_left(samples(31, 10), 5)
    assert left.days_left == left.days_left_low == left.days_left_high == pytest.approx((9500 - 1300) / 10)
    assert sentence(samples(31, 10), 5) == "the disk is full in about 27 months"


def test_one_large_expiry_does_not_tip_it() -> None:
    grown = samples(31, 10)
    tipped = [*grown[:-1], DiskUse(grown[-1].at, 500, 10_000, 0, 0)]
    assert days_left(tipped, 5).days_left == pytest.approx(900, rel=0.05)


def test_inodes_run_out_before_the_space() -> None:
    left = days_left(samples(31, 10, inodes=1000, files=20), 5)
    assert left.days_left == left.days_left_high == pytest.approx((1000 - 600) / 20)


@pytest.mark.parametrize(
    ("days", "growth", "words"),
    [
        (0, 0, "too little history"),
        (4, 10, "too little history"),
        (31, 0, "does not fill up"),
        (31, -5, "does not"),
    ],
)
def test_words(days: int, growth: int, words: str) -> None:
    assert words in sentence(samples(days, growth), 5)


def three(middle: int, last: int, left: int) -> list[DiskUse]:
    """Return samples of day 0, 10 and 20, after which so many bytes are free.

    Of their three slopes the quartiles lie half way between the median and the two others.
    """
    return [
        DiskUse(START + timedelta(days=day), used, last + left, 0, 0)
        for day, used in ((0, 0), (10, middle), (20, last))
    ]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        # 10, 25 and 40 bytes a day.
        (three(100, 500, 1000), "the disk is full in about 40 days (31 to 57)"),
        (three(100, 500, 1500), "the disk is full in about 2 months (46 days to 3 months)"),
        (three(100, 500, 7600), "the disk is full in about 10 months (8 to 14)"),
        # -20, 20 and 60 bytes a day.
        (three(-200, 400, 1000), "the disk is full in about 50 days (25 days or much more)"),
        (three(100, 500, 10), "the disk is full down to its reserve"),
    ],
)
def test_the_range_is_told_in_words(made: list[DiskUse], words: str) -> None:
    assert sentence(made, 0) == words


@given(st.lists(st.integers(-200, 400), min_size=7, max_size=60), st.integers(0, 10**6))
def test_the_range_holds_the_median(grown: list[int], free: int) -> None:
    used = list(accumulate(grown, initial=1000))
    made = [
        DiskUse(START + timedelta(days=day), each, used[-1] + free, 0, 0) for day, each in enumerate(used)
    ]
    left = days_left(made, 0)
    low, middle, high = (
        float("inf") if days is None else days
        for days in (left.days_left_low, left.days_left, left.days_left_high)
    )
    assert 0 <= low <= middle <= high
