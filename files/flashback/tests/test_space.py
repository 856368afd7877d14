"""A full disk costs old snapshots, but never below the floor, the newest or a spared one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from flashback.disk import Disk
from flashback.space import running_out, shortage, victims
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
TREES = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(st.integers(0, 99).map(lambda day: START + timedelta(days=day)), max_size=12, unique=True),
)


@pytest.mark.parametrize(
    ("free", "inodes", "inodes_free", "kind"),
    [(5, 0, 0, None), (4, 0, 0, "space"), (50, 100, 2, None), (50, 100, 1, "inodes"), (4, 100, 1, "space")],
)
def test_what_is_short(free: int, inodes: int, inodes_free: int, kind: str | None) -> None:
    disk = Disk(Path("/m"), True, total=100, free=free, inodes=inodes, inodes_free=inodes_free)
    short = shortage(disk, 5, 2)
    assert (short and short.kind) == kind


@pytest.mark.parametrize(("free", "ends"), [(2, False), (1, True), (0, True)])
def test_a_transfer_ends_before_the_disk_is_full(free: int, ends: bool) -> None:
    assert running_out(Disk(Path("/m"), True, total=100 << 30, free=free << 30), 5, 2) is ends


@given(TREES, st.integers(0, 4), st.data())
def test_making_room_respects_floor_newest_and_spared(
    trees: dict[str, list[datetime]], floor: int, data: st.DataObject
) -> None:
    spared = {job: data.draw(st.sets(st.sampled_from(taken))) for job, taken in trees.items() if taken}
    gone = list(victims(trees, spared, floor))
    assert [moment for _, moment in gone] == sorted(moment for _, moment in gone)
    for job, taken in trees.items():
        lost = {moment for name, moment in gone if name == job}
        assert len(taken) - len(lost) >= min(len(taken), max(floor, 1))
        assert not lost & spared.get(job, set())
        assert not taken or max(taken) not in lost


def test_all_that_may_go_does_go() -> None:
    taken = [START + timedelta(days=day) for day in range(5)]
    assert [moment for _, moment in victims({"a": taken}, {}, 2)] == taken[:3]
