"""When the disk will be full, told from samples."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from flashback.forecast import days_left, sentence
from flashback.model import DiskUse

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def samples(days: int, growth: int, *, inodes: int = 0, files: int = 0) -> list[DiskUse]:
    return [
        DiskUse(START + timedelta(days=day), 1000 + growth * day, 10_000, files * day, inodes)
        for day in range(days)
    ]


def test_steady_growth_is_told_exactly() -> None:
    assert days_left(samples(31, 10), 5) == pytest.approx((9500 - 1300) / 10)


def test_one_large_expiry_does_not_tip_it() -> None:
    grown = samples(31, 10)
    tipped = [*grown[:-1], DiskUse(grown[-1].at, 500, 10_000, 0, 0)]
    assert days_left(tipped, 5) == pytest.approx(900, rel=0.05)


def test_inodes_run_out_before_the_space() -> None:
    assert days_left(samples(31, 10, inodes=1000, files=20), 5) == pytest.approx((1000 - 600) / 20)


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
