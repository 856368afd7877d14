"""The trees of 2014 become snapshots by renames alone, and the next backup goes on from them."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from flashback import adopt
from flashback.errors import BusyError, FlashbackError, UsageError
from flashback.model import snapshot_time
from hypothesis import given
from hypothesis import strategies as st

from .disks import mounted
from .rig import Rig, tree

NOW = int(datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp())
NAMES = ["2014-02-23T120000Z", "2014-02-24T120000Z", "2014-02-25T120000Z"]


def old_tree(rig: Rig, count: int = 3, label: str = "daily", *, whole_seconds: bool = False) -> None:
    """Make what the old engine left: LABEL.1 is the newest, all hard links of one another."""
    volume = rig.disk / "laptop/home"
    volume.mkdir(parents=True, exist_ok=True)
    for number in range(30):
        (rig.source / f"file {number}").write_text(f"{number}\n" * 100)
    (rig.source / os.fsdecode(b"bad\xff\nname")).write_text("strange")
    precision = ["--modify-window=0"] if whole_seconds else ["--modify-window=-1"]
    for number in range(count, 0, -1):
        link = [f"--link-dest={volume}/{label}.{number + 1}"] if number < count else []
        target = f"{volume}/{label}.{number}"
        subprocess.run(["rsync", "-aHAXS", *precision, *link, f"{rig.source}/", target], check=True)
        if whole_seconds and number == count:
            for path in Path(target).iterdir():
                os.utime(path, (int(path.stat().st_mtime), int(path.stat().st_mtime)))
        moment = datetime(2014, 2, 26 - number, 12, tzinfo=timezone.utc).timestamp()
        os.utime(target, (moment, moment))
    (volume / f"{label}.stdout").write_text("")


def inodes(folder: Path) -> dict[bytes, int]:
    return {os.fsencode(path.name): path.stat().st_ino for path in folder.iterdir()}


def everything(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


# --- times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([NOW - 30, NOW - 20, NOW - 10], [NOW - 30, NOW - 20, NOW - 10]),
        ([10**9, 10**9, 10**9], [10**9 - 2, 10**9 - 1, 10**9]),
        # Born on a plug whose clock said 1970.
        ([10**9, 0, 10**9 + 100], [10**9, 10**9 + 1, 10**9 + 100]),
        ([0, 10**9], [10**9 - 1, 10**9]),
        ([10**9, 0], [10**9, 10**9 + 1]),
        # One in the future does not make its elders strangers to their time.
        ([NOW + 500, 10**9, 10**9 + 7], [10**9 - 1, 10**9, 10**9 + 7]),
        ([NOW, NOW, NOW], [NOW - 2, NOW - 1, NOW]),
        ([0, 0], [NOW - 1, NOW]),
        ([], []),
    ],
)
def test_each_tree_gets_a_moment_of_its_own(times: list[int], wanted: list[int]) -> None:
    assert adopt.moments(times, NOW) == wanted


@given(
    st.lists(
        st.integers(-(10**9), NOW + 10**6) | st.integers(NOW - 5, NOW + 5) | st.integers(10**9, 10**9 + 5)
    )
)
def test_moments_rise_and_never_lie_ahead(times: list[int]) -> None:
    found = adopt.moments(times, NOW)
    assert len(found) == len(times)
    assert all(one < other for one, other in itertools.pairwise(found))
    assert not found or found[-1] <= NOW


@given(st.sets(st.integers(10**9, NOW)))
def test_good_times_stay_as_they_are(times: set[int]) -> None:
    assert adopt.moments(sorted(times), NOW) == sorted(times)


# --- the whole ---------------------------------------------------------------------------------------------


def test_an_old_tree_is_taken_over_and_the_next_backup_sends_nothing(rig: Rig) -> None:
    old_tree(rig)
    rig.configure("{period: 1d, keep: 9}")
    before = [tree(rig.disk / f"laptop/home/daily.{number}") for number in (3, 2, 1)]
    listed = everything(rig.disk)
    assert "3 trees would be taken over" in rig.call("adopt", "--dry-run").stdout
    assert [path for path in everything(rig.disk) if path != ".flashback/lock"] == listed
    done = rig.call("adopt")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["! laptop/home/daily.stdout: is no folder; stays"]
    assert [path.name for path in rig.complete()] == NAMES
    assert [tree(path) for path in rig.complete()] == before
    snapshot = rig.back_up()
    assert inodes(snapshot) == inodes(rig.label / NAMES[-1])
    assert len(rig.complete()) == 4
    assert "0 trees are taken over" in rig.call("adopt").stdout


def test_times_in_whole_seconds_are_told_and_the_remedy_works(rig: Rig) -> None:
    old_tree(rig, whole_seconds=True)
    rig.configure("{period: 1d, keep: 9}")
    assert "in whole seconds" in rig.call("adopt", "-n").stderr
    rig.configure("{period: 1d, keep: 9, rsync_options: [--modify-window=0]}")
    done = rig.call("adopt")
    assert "in whole seconds" not in done.stderr
    snapshot = rig.back_up()
    assert inodes(snapshot) == inodes(rig.label / NAMES[-1])


def test_what_the_next_backup_lets_go_is_told(rig: Rig) -> None:
    old_tree(rig, 5)
    assert "`keep` lets 2 of 5 go" in rig.call("adopt", "-n").stderr
    old_tree(rig, 1, "weekly")
    assert "laptop/home/weekly: no job has this name" in rig.call("adopt").stderr


def test_equal_times_keep_their_order(rig: Rig) -> None:
    old_tree(rig)
    numbers = (3, 2, 1)
    for number in numbers:
        os.utime(rig.disk / f"laptop/home/daily.{number}", (10**9, 10**9))
    wanted = [(rig.disk / f"laptop/home/daily.{number}").stat().st_ino for number in numbers]
    done = rig.call("adopt")
    assert "daily.2: its time, 2001-09-09 01:46:40, cannot be in this order" in done.stderr
    assert [path.stat().st_ino for path in rig.complete()] == wanted


def test_an_interrupted_adoption_is_finished_as_it_was_planned(rig: Rig) -> None:
    old_tree(rig)
    root = rig.disk
    moves = [
        adopt.Move(Path(f"laptop/home/daily.{3 - place}"), Path(f"laptop/home/daily/{name}"))
        for place, name in enumerate(NAMES)
    ]
    adopt.begin(root, moves)
    rig.label.mkdir()
    (root / moves[0].old).rename(root / moves[0].new)
    # What a plan made now would do differently.
    os.utime(root / moves[1].old, (10**9, 10**9))
    done = rig.call("adopt")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in rig.complete()] == NAMES
    assert not (root / adopt.JOURNAL).exists()


def kill_after(rig: Rig, delay: float) -> None:
    child = rig.start("adopt")
    while not (rig.disk / adopt.JOURNAL).exists() and child.poll() is None:
        pass
    time.sleep(delay)
    child.kill()
    child.wait()


def test_a_kill_at_any_moment_loses_nothing(rig: Rig) -> None:
    old_tree(rig, 9)
    trees = sorted(path.stat().st_ino for path in (rig.disk / "laptop/home").iterdir() if path.is_dir())
    for delay in (0, 0.0005, 0.001, 0.002, 0.005):
        kill_after(rig, delay)
    assert rig.call("adopt").returncode == 0
    assert sorted(path.stat().st_ino for path in rig.complete()) == trees


def test_nothing_that_is_there_is_replaced(rig: Rig) -> None:
    old_tree(rig, 1)
    move = adopt.Move(Path("laptop/home/daily.1"), Path(f"laptop/home/daily/{NAMES[-1]}"))
    adopt.begin(rig.disk, [move])
    (rig.disk / move.new).mkdir(parents=True)
    with pytest.raises(FlashbackError, match="are both there"):
        adopt.finish(rig.disk)
    (rig.disk / adopt.JOURNAL).unlink()
    with pytest.raises(FlashbackError, match="is there already"):
        adopt.begin(rig.disk, [move])
    assert (rig.disk / move.old).is_dir()
    assert not any((rig.disk / move.new).iterdir())


def test_trees_newer_than_a_backup_of_the_new_engine_stay(rig: Rig) -> None:
    old_tree(rig)
    rig.back_up()
    os.utime(rig.disk / "laptop/home/daily.1")
    os.utime(rig.complete()[0], (10**9, 10**9))
    rig.complete()[0].rename(rig.label / "2020-01-01T000000Z")
    done = rig.call("adopt")
    assert done.returncode == 0
    assert "newer than 2020-01-01T000000Z, which the new engine has made already" in done.stderr
    assert (rig.disk / "laptop/home/daily.1").is_dir()


def test_trees_older_than_all_backups_of_the_new_engine_come_before_them(rig: Rig) -> None:
    old_tree(rig)
    rig.configure("{period: 1d, keep: 9}")
    new = rig.back_up()
    assert rig.call("adopt").returncode == 0
    assert [path.name for path in rig.complete()] == [*NAMES, new.name]


def test_an_unfinished_tree_is_gone_on_from_but_not_its_last_minutes(rig: Rig) -> None:
    old_tree(rig)
    unfinished = rig.disk / "laptop/home/daily.0"
    (rig.source / "new").write_text("sent long ago")
    (rig.source / "newer").write_text("sent before the power went")
    subprocess.run(["rsync", "-aHAXS", f"{rig.source}/", str(unfinished)], check=True)
    done = rig.call("adopt")
    assert done.returncode == 0, done.stderr
    assert (rig.label / "incoming/new").exists()
    # All of it arrived within the last minutes: nothing of it is trusted, but it is not the newest either.
    assert int((rig.label / "incoming.synced").read_text()) < (rig.label / "incoming/new").stat().st_ctime_ns
    snapshot = rig.back_up()
    assert tree(snapshot) == tree(rig.source)
    assert not (rig.label / "incoming").exists()


def test_files_of_an_unfinished_tree_are_trusted_until_ten_minutes_before_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert adopt._trusted_until(tmp_path, lambda: None) == 0
    (tmp_path / "c").write_text("")
    wanted = (tmp_path / "c").stat().st_ctime_ns - 600 * 10**9
    assert adopt._trusted_until(tmp_path, lambda: None) == wanted


def test_what_is_no_snapshot_of_2014_stays_and_is_listed(rig: Rig) -> None:
    old_tree(rig, 1)
    home = rig.disk / "laptop/home"
    for name in ("daily.01", "notes", "in coming.1", "incoming.1", "expired-x.1"):
        (home / name).mkdir()
    (home / "link.1").symlink_to("daily.1")
    (rig.disk / "config").write_text("keepCount = 3\n")
    (rig.disk / "daily.0/host").mkdir(parents=True)
    (rig.disk / "elsewhere").symlink_to("laptop")
    (home / "weekly").write_text("in the way")
    (home / "weekly.1").mkdir()
    listed = everything(home / "notes")
    done = rig.call("adopt")
    assert done.returncode == 0, done.stderr
    assert [line.split(" ->")[0] for line in done.stdout.splitlines()[:-1]] == ["laptop/home/daily.1"]
    for words in (
        "laptop/home/notes: has no number",
        "laptop/home/daily.01: has no number",
        "laptop/home/in coming.*: `in coming` is not a usable name",
        "laptop/home/incoming.*: `incoming` is reserved",
        "laptop/home/expired-x.*: `expired-x` is reserved",
        "laptop/home/link.1: is a symbolic link",
        "config: is no folder",
        "daily.0: looks like a tree of rsnapshot",
        "elsewhere: is a symbolic link",
        "laptop/home/weekly.*: weekly is no folder",
    ):
        assert words in done.stderr
    assert everything(home / "notes") == listed


def test_a_label_of_the_new_engine_with_a_number_is_no_old_tree(rig: Rig) -> None:
    rig.configure()
    rig.config.write_text(rig.config.read_text().replace("daily:", "daily.2:"))
    assert rig.call("backup", "laptop").returncode == 0
    rig.configure()
    assert "0 trees are taken over" in rig.call("adopt").stdout


def test_a_tree_in_a_folder_of_the_disk_is_taken_from_there(rig: Rig, tmp_path: Path) -> None:
    old_tree(rig)
    (rig.disk / "flashback/data").mkdir(parents=True)
    (rig.disk / "laptop").rename(rig.disk / "flashback/data/laptop")
    done = rig.call("adopt", "--from", str(rig.disk / "flashback/data"))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in rig.complete()] == NAMES
    with pytest.raises(UsageError, match="no folder of the backup disk"):
        adopt.plan(rig.disk, tmp_path, [], datetime.now(timezone.utc))


def test_a_disk_that_is_not_marked_or_in_use_is_left_alone(rig: Rig) -> None:
    old_tree(rig)
    with subprocess.Popen(["sleep", "60"], cwd=rig.disk / "laptop/home/daily.2") as child:
        with pytest.raises(BusyError, match=f"Process {child.pid} works in"):
            adopt.begin(rig.disk, [adopt.Move(Path("laptop/home/daily.2"), Path("x"))])
        assert rig.call("adopt").returncode == 75
        child.kill()
    with (rig.disk / ".flashback/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert rig.call("adopt").returncode == 75
    (rig.disk / ".flashback/id").unlink()
    assert rig.call("adopt").returncode == 75
    assert (rig.disk / "laptop/home/daily.1").is_dir()


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_on_each_file_system_the_next_backup_goes_on_from_the_old_tree(rig: Rig, kind: str) -> None:
    with mounted(kind, rig.top):
        old_tree(rig)
        rig.configure("{period: 1d, keep: 2}")
        (rig.disk / "laptop/home/daily.0").mkdir()
        done = rig.call("adopt")
        assert done.returncode == 0, done.stderr
        assert ("on btrfs a backup cannot go on from it" in done.stderr) == (kind == "btrfs")
        for _ in range(3):
            assert tree(rig.back_up())[1:] == tree(rig.source)[1:]
        assert len(rig.complete()) == 2
        assert all(snapshot_time(path.name) for path in rig.complete())
