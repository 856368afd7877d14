"""What is slow to build is built once, and never taken for finished before it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbench import cache
from workbench.errors import WorkbenchError

RECIPE = {"packages": ["a", "b"]}


def test_a_recipe_is_built_once(tmp_path: Path) -> None:
    built = []

    def make(folder: Path) -> None:
        built.append(folder)
        (folder / "result").write_text("done")

    first = cache.build(tmp_path, "thing", RECIPE, 0, make)
    assert cache.build(tmp_path, "thing", RECIPE, 0, make) == first == cache.entry(tmp_path, "thing", RECIPE)
    assert len(built) == 1
    assert (first / "result").read_text() == "done"


def test_another_recipe_is_another_entry(tmp_path: Path) -> None:
    first = cache.build(tmp_path, "thing", RECIPE, 0, lambda _: None)
    assert cache.build(tmp_path, "thing", {"packages": ["a"]}, 0, lambda _: None) != first


def test_an_interrupted_build_leaves_no_entry_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build(tmp_path, "thing", RECIPE, 0, interrupted)
    assert cache.entry(tmp_path, "thing", RECIPE) is None
    finished = cache.build(tmp_path, "thing", RECIPE, 0, lambda _: None)
    assert not (finished / "half").exists()


def test_what_a_killed_build_left_is_not_used(tmp_path: Path) -> None:
    left = tmp_path / f"{cache.recipe_name('thing', RECIPE)}.unfinished"
    left.mkdir()
    (left / "half").touch()
    assert not (cache.build(tmp_path, "thing", RECIPE, 0, lambda _: None) / "half").exists()


def test_too_little_space_is_said_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"GiB free and 1048576\.0 GiB are needed"):
        cache.build(tmp_path, "thing", RECIPE, 1 << 50, lambda _: pytest.fail("was built"))


def test_two_builds_of_one_recipe_do_not_meet(tmp_path: Path) -> None:
    def again(_: Path) -> None:
        with pytest.raises(WorkbenchError, match="Another run is building"):
            cache.build(tmp_path, "thing", RECIPE, 0, lambda _: None)

    cache.build(tmp_path, "thing", RECIPE, 0, again)
