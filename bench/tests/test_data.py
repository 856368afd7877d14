"""The data are the same each time, and a day changes what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rig import tree

from bench.data import IMAGE, SIZES, Empty, Home

TINY = replace(SIZES["small"], files=400, bytes=4 << 20, image=1 << 20, many=1500)


def made(top: Path, seed: int, days: int) -> list[Any]:
    top.mkdir()
    home = Home(TINY, seed)
    home.fill(top)
    for day in range(1, days + 1):
        home.change(top, day)
    return tree(top)[1:]


def contents(entries: list[Any]) -> dict[str, str]:
    return {name: content[:64] for name, numbers, content, _ in entries if numbers[0] >> 12 == 8}


def test_the_same_seed_makes_the_same_days(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 7, 3), made(tmp_path / "other", 7, 3)
    assert one == other


def test_another_seed_makes_another_home(tmp_path: Path) -> None:
    assert contents(made(tmp_path / "one", 7, 0)) != contents(made(tmp_path / "other", 8, 0))


def test_the_home_has_what_was_asked_for(tmp_path: Path) -> None:
    entries = made(tmp_path / "home", 1, 0)
    files = contents(entries)
    assert len(files) == TINY.files
    inodes = {
        path.stat().st_ino: path.stat().st_size for path in (tmp_path / "home").rglob("*") if path.is_file()
    }
    assert len(inodes) < len(files), "there are hard links"
    assert abs(sum(inodes.values()) - TINY.bytes) < TINY.bytes * 0.15
    assert (tmp_path / "home" / IMAGE).stat().st_size == TINY.image
    assert any(numbers[0] >> 12 == 10 for _, numbers, _, _ in entries), "there are symbolic links"


def test_a_day_changes_a_little(tmp_path: Path) -> None:
    before, after = contents(made(tmp_path / "one", 3, 0)), contents(made(tmp_path / "other", 3, 1))
    new = set(after.values()) - set(before.values())
    # 1 % modified, 0.5 % new, and the disk image.
    assert TINY.files * 0.01 <= len(new) <= TINY.files * 0.03
    assert IMAGE.encode().hex() in after
    assert after[IMAGE.encode().hex()] != before[IMAGE.encode().hex()]
    gone = set(before) - set(after)
    assert gone, "files were deleted and a folder was renamed"
    assert len(after) == len(before)


def test_a_day_keeps_names_and_folders_in_step(tmp_path: Path) -> None:
    home = Home(TINY, 5)
    home.fill(tmp_path)
    for day in range(1, 20):
        home.change(tmp_path, day)
        there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert there == {*home.names(), IMAGE}
        assert home.sample() in there


def test_the_empty_files_are_so_many(tmp_path: Path) -> None:
    Empty(TINY).fill(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == TINY.many
    assert len(list(tmp_path.iterdir())) == 2
