"""Finding versions of files, comparing snapshots."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flashback import archive, beside, changes, diff, find
from flashback.gauge import Gauge
from flashback.guard import Totals
from flashback.model import Changes

from .rig import Rig
from .test_archive import loose
from .test_restore import bury


def test_every_version_of_a_file_is_found_once(rig: Rig) -> None:
    (rig.source / "docs").mkdir()
    file = rig.source / "docs" / "thesis.txt"
    file.write_text("one")
    first, second = rig.back_up(), rig.back_up()
    file.write_text("another")
    third = rig.back_up()
    found = [json.loads(line) for line in rig.call("find", "thesis*", "--json").stdout.splitlines()]
    assert [(each["first"], each["last"], each["snapshots"]) for each in found] == [
        (first.name, second.name, 2),
        (third.name, third.name, 1),
    ]
    assert Path(found[0]["place"]).read_text() == "one"
    assert len(rig.call("find", "thesis").stdout.splitlines()) == 2
    assert rig.call("find", "nothing").returncode == 1


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("thesis", {"docs/thesis.txt", "docs/my thesis"}),
        ("*.txt", {"docs/thesis.txt", "a.txt"}),
        ("docs/th", {"docs/thesis.txt"}),
        ("/docs/th*", {"docs/thesis.txt"}),
        ("docs", set()),
        ("d*/*", {"docs/thesis.txt", "docs/my thesis"}),
        ("[ab].txt", {"a.txt"}),
    ],
)
def test_what_a_pattern_matches(tmp_path: Path, pattern: str, matching: set[str]) -> None:
    matches = find.matcher(pattern)
    assert {path for path in ("docs/thesis.txt", "docs/my thesis", "a.txt") if matches(path)} == matching


def test_odd_names_and_times_are_found_on_one_line(rig: Rig) -> None:
    odd = rig.source / os.fsdecode(b"odd\n\xff\x1b")
    odd.write_text("1")
    os.utime(odd, (2**40, 2**40))
    rig.back_up()
    lines = rig.call("find", "odd").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("odd\\n\\xff\\x1b")
    (found,) = (json.loads(line) for line in rig.call("find", "odd", "--json").stdout.splitlines())
    assert os.fsencode(found["path"]) == b"odd\n\xff\x1b"


def grown(rig: Rig) -> tuple[Path, Path]:
    """Return two snapshots that differ in every way."""
    for name in ("gone", "same", "mode", "content", "attribute", "type", "renamed"):
        (rig.source / name).write_text(name)
    (rig.source / os.fsdecode(b"new\nline\xff")).write_text("1")
    (rig.source / "link").symlink_to("a")
    os.utime(rig.source / "renamed", ns=(0, 1_234_567_890_123_456_789))
    (rig.source / "becomes a link").mkdir()
    (rig.source / "becomes a link/inside").write_text("1")
    (rig.source / "elsewhere").mkdir()
    (rig.source / "elsewhere/untouched").write_text("1")
    one = rig.back_up()
    (rig.source / "gone").unlink()
    (rig.source / "mode").chmod(0o600)
    (rig.source / "content").write_text("changed")
    os.setxattr(rig.source / "attribute", "user.a", b"1")
    (rig.source / "type").unlink()
    (rig.source / "type").mkdir()
    (rig.source / "link").unlink()
    (rig.source / "link").symlink_to("b")
    (rig.source / "becomes a link/inside").unlink()
    (rig.source / "becomes a link").rmdir()
    (rig.source / "becomes a link").symlink_to("elsewhere")
    (rig.source / "folder").mkdir()
    (rig.source / "renamed").rename(rig.source / "folder/named")
    (rig.source / "folder/inside").write_text("1")
    return one, rig.back_up()


def test_a_diff_names_all_that_differs_and_nothing_else(rig: Rig) -> None:
    one, two = grown(rig)
    *found, last = (
        json.loads(line) for line in rig.call("diff", "laptop/home/daily", "--json").stdout.splitlines()
    )
    assert {each["path"]: each["what"] for each in found} == {
        "gone": "removed", "mode": "mode", "content": "content", "attribute": "xattr", "type": "type",
        "becomes a link": "type", "becomes a link/inside": "removed", "folder": "added",
        "folder/inside": "added", "folder/named": "moved",
        "link": "content",
    }  # fmt: skip
    assert {each["path"]: each["origin"] for each in found if each["origin"]} == {"folder/named": "renamed"}
    assert last["totals"]["added"] == {"entries": 2, "bytes": 1}
    said = rig.call(
        "diff", f"laptop/home/daily/{one.name}", f"laptop/home/daily/{two.name}", "--content"
    ).stdout
    assert f"{one.name} -> {two.name}: 2 added (1 bytes), " in said
    assert "renamed -> folder/named" in said


def test_a_diff_by_content_reads_what_looks_the_same(rig: Rig) -> None:
    file, moment = rig.source / "a", 1_700_000_000_000_000_001
    file.write_text("before")
    os.utime(file, ns=(moment, moment))
    one = rig.back_up()
    two = one.with_name("2999-01-01T000000Z")
    subprocess.run(["cp", "-a", str(one), str(two)], check=True)
    assert list(diff.differences(one, two, content=True)) == []
    (two / "a").write_text("behind")
    os.utime(two / "a", ns=(moment, moment))
    assert list(diff.differences(one, two)) == []
    assert [each.what for each in diff.differences(one, two, content=True)] == ["content"]


def test_snapshots_of_a_volume_are_compared_by_name_or_day(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    first, second, third = rig.back_up(), rig.back_up(), rig.back_up()
    for words, pair in (
        ([], (second, third)),
        (["--from", first.name], (first, third)),
        (["--to", second.name], (first, second)),
        (["--from", first.name, "--to", second.name], (first, second)),
    ):
        said = rig.call("diff", "laptop/home", *words).stdout
        assert said == f"{pair[0].name} -> {pair[1].name}: nothing differs\n"


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for trees that are too deep for pytest to remove."""
    yield tmp_path
    subprocess.run(["rm", "-rf", "--", str(tmp_path / "old"), str(tmp_path / "new")], check=True)


def test_very_deep_and_very_full_folders_are_walked(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (deep / name).mkdir()
        folder = os.open(deep / name, os.O_RDONLY)
        for _ in range(2040):
            os.mkdir("d", dir_fd=folder)
            deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = deeper
        os.close(folder)
        (deep / name / "full").mkdir()
        for number in range(500):
            (deep / name / "full" / f"{name if number % 50 == 0 else ''}{number}").mkdir()
    monkeypatch.setattr(beside, "CROWD", 100)
    with beside.opened([deep / "old", deep / "new"]) as trees:
        walked = [path for path, _ in beside.walk(trees)]
    assert len(walked) == len(set(walked)) == 2040 + 1 + 490 + 20
    assert len(list(diff.differences(deep / "old", deep / "new"))) == 20
    with (deep / "deep.zip").open("wb") as file:
        archive.zip_(loose(deep, "old"), file, Gauge())
    with zipfile.ZipFile(deep / "deep.zip") as packed:
        assert len(packed.namelist()) == 1 + 2040 + 1 + 500


def test_files_of_one_size_and_whole_second_have_not_moved(tmp_path: Path) -> None:
    for side, name in (("old", "one"), ("new", "other")):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_text(side)
        os.utime(tmp_path / side / name, (1_700_000_000, 1_700_000_000))
    found = diff.differences(tmp_path / "old", tmp_path / "new")
    assert [(each.what, each.path) for each in found] == [("added", "other"), ("removed", "one")]


def test_a_folder_that_became_a_link_is_not_followed(rig: Rig) -> None:
    for folder in ("etc", "other"):
        (rig.source / folder).mkdir()
        (rig.source / folder / "mine").write_text(folder)
    one = rig.back_up()
    (rig.source / "etc/mine").unlink()
    (rig.source / "etc").rmdir()
    (rig.source / "etc").symlink_to("other")
    two = rig.back_up()
    for old, new, what in ((one, two, "removed"), (two, one, "added")):
        names = [f"laptop/home/daily/{each.name}" for each in (old, new)]
        *found, _ = map(json.loads, rig.call("diff", *names, "--json").stdout.splitlines())
        assert {each["path"]: each["what"] for each in found} == {"etc": "type", "etc/mine": what}
    found = [json.loads(line) for line in rig.call("find", "mine", "--json").stdout.splitlines()]
    assert [(each["path"], each["snapshots"]) for each in found] == [("etc/mine", 1), ("other/mine", 2)]
    assert changes.walk(one, two) == (Changes(1, 5, 1, 5), Totals(2, 8))
    assert changes.walk(two, one) == (Changes(2, 8, 1, 5), Totals(1, 5))


def test_what_lies_deeper_than_a_path_may_be_is_found_and_compared(rig: Rig) -> None:
    deep = bury(rig.source)
    rig.back_up()
    with beside.opened([rig.source]) as (tree,):
        file = os.open(deep, os.O_WRONLY, dir_fd=tree)
        os.write(file, b"dug up")
        os.close(file)
    rig.back_up()
    lines = rig.call("find", "f" * 60, "--json").stdout.splitlines()
    assert [json.loads(each)["path"] for each in lines] == [deep, deep]
    found = map(json.loads, rig.call("diff", "laptop/home", "--json").stdout.splitlines())
    assert [each["path"] for each in found if each.get("what") == "content"] == [deep]
