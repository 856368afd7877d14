"""Coming from the flashback of 2014: its two configurations, and its tree."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from flashback import config, legacy
from flashback.errors import FlashbackError
from flashback.model import Job

from .rig import Rig, tree

LEGACY = Path(__file__).parent.parent / "examples/legacy"


def jobs(made: legacy.Imported) -> dict[str, Job]:
    return {job.name: job for job in config.parse(made.text, Path("new")).jobs}


def test_the_json_form_is_carried_over() -> None:
    made = legacy.convert(LEGACY / "flashback.json")
    found = jobs(made)
    daily = found["laptop/home/daily"]
    assert (daily.source, daily.user, daily.addresses) == ("/home/", "root", ("laptop.local",))
    assert (daily.period, daily.keep.last, daily.bandwidth_limit) == (86400, 9, "200K")
    assert daily.rsync_options == ("--ipv4", "--filter=- a b")
    assert daily.excludes == (".gvfs", "tmp")
    weekly = found["laptop/home/weekly"]
    assert (weekly.copy_of, weekly.period, weekly.keep.last) == ("daily", 7 * 86400, 6)
    hourly = found["laptop/sticks/hourly"]
    assert (hourly.period, hourly.source, hourly.removable, hourly.disabled) == (
        3600,
        "/media/*",
        True,
        False,
    )
    assert found["plug/root/weekly"].local
    assert found["off/x/daily"].disabled
    assert "odd/x/daily" not in found


def test_all_that_cannot_be_carried_over_is_said() -> None:
    notes = "\n".join(legacy.convert(LEGACY / "flashback.json").notes)
    for words in (
        "global.helper",
        "tool tar is unknown, the job is left out",
        "colour is unknown",
        "--rsync-path=/x is not",
    ):
        assert words in notes
    assert legacy.convert(LEGACY / "flashback.json").text == legacy.convert(LEGACY / "flashback.json").text


def test_the_form_of_february_2014_is_carried_over(tmp_path: Path) -> None:
    made = legacy.convert(LEGACY / "2014/flashback.conf")
    found = jobs(made)
    assert found["aspire/home/daily"].keep.last == 5
    assert found["aspire/home/weekly"].copy_of == "daily"
    assert (found["sheeva/root/daily"].period, found["sheeva/root/daily"].local) == (36 * 3600, True)
    assert any("flashback.jobs:5: has no host, volume or src" in note for note in made.notes)


def test_the_files_in_the_tree_override_the_table(tmp_path: Path) -> None:
    (tmp_path / "flashback.conf").write_text(f"topDir = {tmp_path}\n")
    (tmp_path / "flashback.jobs").write_text("host=a volume=v src=root@a:/x cycleDay=1\n")
    (tmp_path / "a/v").mkdir(parents=True)
    (tmp_path / "a/config").write_text("keepCount = 3\n")
    (tmp_path / "a/v/config").write_text("label = often\ncycleMin = 30\n")
    (tmp_path / "a/v/excludes").write_text("# no\n*.tmp\n")
    (only,) = jobs(legacy.convert(tmp_path / "flashback.conf")).values()
    assert (only.label, only.period, only.keep.last, only.excludes) == ("often", 1800, 3, ("*.tmp",))


@pytest.mark.parametrize(("text", "said"), [("{", "no valid JSON"), ("nonsense", "is not key = value")])
def test_an_old_configuration_that_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "old").write_text(text)
    with pytest.raises(FlashbackError, match=said):
        legacy.convert(tmp_path / "old")


def test_the_command_writes_a_file_that_loads(rig: Rig) -> None:
    done = rig.call("config", "import", str(LEGACY / "flashback.json"), "-o", str(rig.top / "new.yml"))
    assert done.returncode == 0, done.stderr
    assert "! odd" not in done.stdout
    assert "left out" in done.stderr
    assert rig.call("config", "check", str(rig.top / "new.yml")).returncode == 0
    assert (
        "exists already"
        in rig.call("config", "import", str(LEGACY / "flashback.json"), "-o", str(rig.top / "new.yml")).stderr
    )


def old_tree(rig: Rig, count: int = 3) -> dict[int, object]:
    """Make what the old engine left: daily.1 is the newest, all hard links of one another."""
    volume = rig.disk / "laptop/home"
    volume.mkdir(parents=True)
    (rig.source / "a").write_text("the same")
    for number in range(count, 0, -1):
        link = [f"--link-dest={volume}/daily.{number + 1}"] if number < count else []
        subprocess.run(["rsync", "-aHAXS", *link, f"{rig.source}/", f"{volume}/daily.{number}"], check=True)
        moment = datetime(2014, 2, 26 - number, 12, tzinfo=timezone.utc).timestamp()
        os.utime(volume / f"daily.{number}", (moment, moment))
    (volume / "daily.0").mkdir()
    (volume / "daily.stdout").write_text("")
    return {number: tree(volume / f"daily.{number}")[1:] for number in range(1, count + 1)}


def test_b02_an_old_tree_is_taken_over_and_the_next_backup_sends_nothing(rig: Rig) -> None:
    before = old_tree(rig)
    assert "3 trees would be taken over" not in rig.call("adopt", "--dry-run").stdout
    assert (rig.disk / "laptop/home/daily.1").is_dir()
    done = rig.call("adopt")
    assert done.returncode == 0, done.stderr
    assert "daily.stdout: not a snapshot, stays" in done.stderr
    names = ["2014-02-23T120000Z", "2014-02-24T120000Z", "2014-02-25T120000Z"]
    assert [path.name for path in rig.complete()] == names
    assert [tree(path)[1:] for path in rig.complete()] == [before[3], before[2], before[1]]
    snapshot = rig.back_up()
    assert (snapshot / "a").stat().st_ino == (rig.label / names[-1] / "a").stat().st_ino


def test_equal_times_keep_their_order(rig: Rig) -> None:
    old_tree(rig)
    for number in (1, 2, 3):
        os.utime(rig.disk / f"laptop/home/daily.{number}", (10**9, 10**9))
    inodes = [(rig.disk / f"laptop/home/daily.{number}").stat().st_ino for number in (3, 2, 1)]
    assert rig.call("adopt").returncode == 0
    assert [path.stat().st_ino for path in rig.complete()] == inodes


def test_an_interrupted_adoption_is_finished(rig: Rig) -> None:
    old_tree(rig)
    (rig.disk / "laptop/home/daily").mkdir()
    (rig.disk / "laptop/home/daily.3").rename(rig.disk / "laptop/home/daily/2014-02-23T120000Z")
    assert rig.call("adopt").returncode == 0
    assert len(rig.complete()) == 3


def test_trees_older_than_a_new_backup_are_refused(rig: Rig) -> None:
    old_tree(rig)
    rig.back_up()
    done = rig.call("adopt")
    assert done.returncode == 1
    assert "only before the first backup" in done.stderr
    assert (rig.disk / "laptop/home/daily.1").is_dir()
