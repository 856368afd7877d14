"""What is held back, what makes room, what is taken over: by the real engine on real disks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .disks import mounted
from .rig import Rig, tree, until


def document(rig: Rig) -> dict[str, Any]:
    made = json.loads((rig.run_dir / "status.json").read_text())
    assert isinstance(made, dict)
    return made


def write_files(rig: Rig, count: int = 40) -> None:
    for number in range(count):
        (rig.source / f"file{number}").write_bytes(os.urandom(500))


def test_an_encryptor_is_seen_and_costs_no_old_copy(rig: Rig) -> None:
    rig.configure("{keep: 2}")
    write_files(rig)
    good = rig.back_up()
    before = tree(good)
    for _ in range(4):
        for path in rig.source.iterdir():
            path.write_bytes(os.urandom(500))
            path.rename(path.with_suffix(".locked"))
        done = rig.call("backup", "laptop")
        assert done.returncode == 1
        assert "40 of the 40 files of the newest snapshot (100%) were lost or altered" in done.stdout
    assert rig.complete() == [good]
    assert tree(good) == before
    assert len(list(rig.label.glob("suspect-*"))) == 1
    assert rig.call("reject", "laptop/home").returncode == 0
    assert not list(rig.label.glob("suspect-*"))


def test_tidying_up_half_and_new_files_are_no_alarm(rig: Rig) -> None:
    write_files(rig)
    rig.back_up()
    for path in list(rig.source.iterdir())[:19]:
        path.unlink()
    for number in range(200):
        (rig.source / f"photo{number}").write_bytes(os.urandom(100))
    rig.back_up()
    for path in rig.source.iterdir():
        path.chmod(0o600)
        os.chown(path, 5, 5)
    rig.back_up()


def test_the_guard_sees_it_after_an_interruption_too(rig: Rig) -> None:
    write_files(rig)
    rig.back_up()
    for path in rig.source.iterdir():
        path.write_bytes(os.urandom(100_000))
    rig.configure("{bandwidth_limit: 1M}")
    child = rig.start("backup", "laptop")
    until(lambda: len(list((rig.label / "incoming").glob("file*"))) > 20)
    child.terminate()
    child.wait(30)
    rig.configure("{}")
    assert "were lost or altered" in rig.call("backup", "laptop").stdout


def test_b13_b22_a_weekly_copy_costs_no_transfer_and_is_never_stale(rig: Rig) -> None:
    text = rig.config.read_text()
    rig.config.write_text(text.replace("{daily: {", "{weekly: {from: daily, period: 7d, keep: 2}, daily: {"))
    write_files(rig, 3)
    weekly = rig.disk / "laptop/home/weekly"
    (weekly / "incoming").mkdir(parents=True)
    (weekly / "incoming/left-over").write_text("of an interrupted copy")
    assert "waiting for the first snapshot of daily" in rig.call("why", "laptop/home/weekly").stdout
    assert rig.call("pass").returncode == 0
    assert rig.call("pass").returncode == 0
    (daily,) = rig.complete()
    (copy,) = weekly.glob("20*")
    assert copy.name == daily.name
    assert tree(copy) == tree(daily)
    assert (copy / "file0").stat().st_ino == (daily / "file0").stat().st_ino
    assert rig.call("backup", "laptop/home/weekly").returncode != 0
    assert len(list(weekly.glob("20*"))) == 1


@pytest.fixture(params=["ext4", "btrfs"])
def small(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Rig]:
    # btrfs frees what is deleted with its next commit: a second instead of half a minute.
    options = "loop,noatime,commit=1"
    with mounted(request.param, rig.top, options, size=(120 if request.param == "ext4" else 1000) << 20):
        yield rig


def renew(rig: Rig, size: int) -> None:
    (rig.source / "data").write_bytes(os.urandom(size))


def test_a_full_disk_costs_the_oldest_down_to_the_floor_and_never_a_marked_one(small: Rig) -> None:
    rig = small
    room = os.statvfs(rig.disk).f_bavail * os.statvfs(rig.disk).f_frsize
    with rig.config.open("a") as file:
        file.write("space: {reserve_percent: 25, floor: 2}\n")
    rig.config.write_text(rig.config.read_text().replace("keep: 3", "keep: 100, guard: false"))
    renew(rig, room // 8)
    marked = rig.back_up()
    assert rig.call("keep", f"laptop/home/daily/{marked.name}", "mine").returncode == 0
    for _ in range(9):
        renew(rig, room // 8)
        rig.back_up()
    left = rig.complete()
    assert marked in left
    assert 2 <= len(left) < 9
    assert tree(left[-1]) == tree(rig.source)


def test_a_source_larger_than_the_disk_fails_and_the_old_stays(small: Rig) -> None:
    rig = small
    rig.config.write_text(rig.config.read_text().replace("keep: 3", "keep: 3, guard: false"))
    (rig.source / "a").write_text("precious")
    good = rig.back_up()
    before = tree(good)
    size = os.statvfs(rig.disk).f_blocks * os.statvfs(rig.disk).f_frsize
    for number in range(12):
        (rig.source / f"data{number}").write_bytes(os.urandom(size // 8))
    done = rig.call("backup", "laptop")
    assert done.returncode == 1
    assert rig.complete() == [good]
    assert tree(good) == before
    for number in range(12):
        (rig.source / f"data{number}").unlink()
    (rig.source / "b").write_text("1")
    assert tree(rig.back_up()) == tree(rig.source)


def test_an_interrupted_transfer_says_how_long_it_will_take(rig: Rig) -> None:
    rig.configure("{bandwidth_limit: 1M}")
    for number in range(30):
        (rig.source / f"{number:03}").write_bytes(os.urandom(400_000))
    daemon = rig.start("run")
    seen: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not any(each["seconds_left"] is not None for each in seen):
        if (rig.run_dir / "status.json").exists():
            seen += document(rig)["running"]
        time.sleep(0.2)
    assert any(each["seconds_left"] is not None for each in seen)
    daemon.terminate()


def test_the_names_on_the_disk_are_what_the_readme_says(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for path in (rig.disk / ".flashback").iterdir():
        assert path.name in readme, path
