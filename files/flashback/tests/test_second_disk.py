"""All snapshots are copied to another disk: the same trees, shared as they were, proven by checksums."""

from __future__ import annotations

import json
import mmap
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flashback import config, manifest, process, second_disk, transfer
from flashback.errors import FlashbackError, StoppedError
from flashback.model import Job, Snapshot, snapshot_time
from flashback.store import open_store

from .disks import mounted
from .rig import Rig, tree, until

LARGE = 20 << 20
# Three days of one label, and two of the one that follows it.
COUNT = 5


@contextmanager
def pair(rig: Rig, first: str, second: str) -> Iterator[Path]:
    """Mount the backup disk and yield where another one is mounted."""
    (rig.top / "second").mkdir()
    options = {"btrfs": "loop,noatime,user_subvol_rm_allowed"}
    with (
        mounted(first, rig.top, options.get(first, "loop,noatime")),
        mounted(second, rig.top / "second", options.get(second, "loop,noatime")) as other,
    ):
        yield other


def seal(rig: Rig) -> None:
    settings = config.load(rig.config)
    for job, snapshot in manifest.missing(settings, settings.jobs):
        manifest.seal(settings, job, snapshot)


def some_days(rig: Rig) -> None:
    """Back up three times what changes, shares, and bears odd names and attributes."""
    rig.configure("{period: 1d, keep: 9, guard: false}, weekly: {from: daily, period: 1d, keep: 9}")
    for number in range(20):
        (rig.source / f"file {number}").write_text(f"{number}\n" * 500)
    (rig.source / "large").write_bytes(os.urandom(LARGE))
    (rig.source / os.fsdecode(b"bad\xff\nname")).write_text("strange")
    os.link(rig.source / "file 1", rig.source / "again")
    (rig.source / "link").symlink_to("file 1")
    os.mkfifo(rig.source / "pipe")
    os.chown(rig.source / "file 2", 1234, 5678)
    os.setxattr(rig.source / "file 3", "user.note", b"kept")
    for day in range(3):
        done = rig.call("pass", "--wait")
        assert done.returncode == 0, done.stdout + done.stderr
        with (rig.source / "large").open("r+b") as file:
            file.seek(day << 20)
            file.write(os.urandom(4096))
        (rig.source / f"file {day}").unlink()
        (rig.source / f"file {day + 5}").write_text("changed")
        for label in ("daily", "weekly"):
            for each in (rig.disk / "laptop/home" / label).glob("20*"):
                age(rig, each)
    seal(rig)


def age(rig: Rig, snapshot: Path) -> None:
    """Make a snapshot a day older, so that its job is due again."""
    taken = snapshot_time(snapshot.name)
    assert taken is not None
    job = Job("laptop", "home", snapshot.parent.name, "/", ())
    open_store(rig.disk).rename(job, Snapshot(taken, snapshot), taken - timedelta(days=1))


def spoil(rig: Rig, words: bytes) -> None:
    """Change one bit on the backup disk: btrfs then gives an error, as a disk does for a bad sector."""
    with (rig.top / "btrfs.img").open("r+b") as image, mmap.mmap(image.fileno(), 0) as disk:
        disk[disk.find(words) + 20] ^= 1
    Path("/proc/sys/vm/drop_caches").write_text("3")


def trees(disk: Path) -> dict[str, object]:
    return {str(each.relative_to(disk)): tree(each) for each in disk.glob("laptop/home/*/20*")}


def used(disk: Path) -> int:
    subprocess.run(["sync", "-f", str(disk)], check=True)
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize(
    ("first", "second"), [("ext4", "btrfs"), ("btrfs", "ext4"), ("ext4", "xfs"), ("btrfs", "btrfs")]
)
def test_a_copy_is_what_the_original_is(rig: Rig, first: str, second: str) -> None:
    with pair(rig, first, second) as other:
        some_days(rig)
        assert len(trees(rig.disk)) == COUNT
        assert (
            rig.call(
                "keep",
                f"laptop/home/weekly/{sorted((rig.disk / 'laptop/home/weekly').glob('20*'))[0].name}",
                "the first",
            ).returncode
            == 0
        )
        before = used(other)
        done = rig.call("disk", "copy", str(other))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{COUNT} snapshots copied" in done.stdout
        assert "as its checksums say" in done.stdout
        assert trees(other) == trees(rig.disk)
        # Five snapshots of 20 MB, which differ in a few blocks: both labels share, and on btrfs the days do.
        versions = 1 if second == "btrfs" else 3
        assert used(other) - before < (versions + 1) * LARGE
        assert json.loads((other / "laptop/home/weekly/kept.json").read_text())
        with closing(sqlite3.connect(other / ".flashback/history.db")) as db:
            assert db.execute("SELECT count(*) FROM runs").fetchone()[0] == COUNT
        again = rig.call("disk", "copy", str(other))
        assert "0 snapshots copied" in again.stdout
        assert trees(other) == trees(rig.disk)


def test_the_copy_takes_the_place_of_the_disk(rig: Rig) -> None:
    with pair(rig, "ext4", "btrfs") as other:
        some_days(rig)
        assert rig.call("disk", "copy", str(other)).returncode == 0
        rig.config.write_text(rig.config.read_text().replace(str(rig.disk), str(other)))
        done = rig.call("backup", "laptop/home/daily")
        assert done.returncode == 0, done.stdout + done.stderr
        made = sorted((other / "laptop/home/daily").glob("20*"))
        assert len(made) == 4
        assert tree(made[-1]) == tree(rig.source)
        assert rig.call("verify", "--all").returncode == 0


def test_an_interrupted_copy_goes_on(rig: Rig) -> None:
    with pair(rig, "ext4", "ext4") as other:
        some_days(rig)
        child = rig.start("disk", "copy", str(other))
        until(lambda: len(list(other.glob("laptop/home/*/20*"))) >= 2)
        child.send_signal(signal.SIGTERM)
        said = child.communicate(timeout=60)[1]
        there = len(trees(other))
        assert child.returncode == 75, said
        assert "goes on where this one ended" in said
        assert there < COUNT
        done = rig.call("disk", "copy", str(other))
        assert done.returncode == 0, done.stdout + done.stderr
        assert trees(other) == trees(rig.disk)


def test_what_rotted_on_the_first_disk_is_left_out_named_and_listed(rig: Rig) -> None:
    with pair(rig, "ext4", "btrfs") as other:
        some_days(rig)
        oldest = sorted((rig.disk / "laptop/home/daily").glob("20*"))[0]
        times = (oldest / "file 9").stat()
        with (oldest / "file 9").open("r+b") as file:
            file.write(b"X")
        os.utime(oldest / "file 9", ns=(times.st_atime_ns, times.st_mtime_ns))
        done = rig.call("disk", "copy", str(other))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"! laptop/home/daily/{oldest.name}/file 9 is damaged and left out" in done.stdout
        assert not list(other.glob("laptop/home/*/20*/file 9"))
        rig.config.write_text(rig.config.read_text().replace(str(rig.disk), str(other)))
        listed = json.loads(rig.call("damage", "--json").stdout)
        assert [len(each["places"]) for each in listed] == [COUNT]


def test_a_copy_that_is_wrong_there_gets_no_name_and_the_others_go_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoils(there: Any, job: Any, address: Any, destination: Any, **words: Any) -> Any:
        done = fill(there, job, address, destination, **words)
        if job.source.endswith(wanted[1][1].name) and job.label == wanted[1][0].label:
            spoilt = destination.where / destination.target / "file 9"
            spoilt.unlink()
            spoilt.write_text("spoilt")
        return done

    with pair(rig, "ext4", "ext4") as other:
        some_days(rig)
        here = config.load(rig.config)
        there = second_disk.other(here, other)
        wanted = second_disk.missing(here, there)
        fill = transfer.fill
        with monkeypatch.context() as patch:
            patch.setattr(second_disk.transfer, "fill", spoils)
            made = list(second_disk.copy(here, there, wanted, process.no_pulse))
        assert [bool(each.problem) for each in made] == [False, True, False, False, False]
        assert "file 9 is not what its checksum says" in made[1].problem
        assert len(trees(other)) == COUNT - 1
        assert rig.call("disk", "copy", str(other)).returncode == 0
        assert trees(other) == trees(rig.disk)


@pytest.mark.parametrize("second", ["ext4", "btrfs"])
def test_what_an_ill_disk_cannot_read_is_left_out_named_and_listed(rig: Rig, second: str) -> None:
    words = b"sick at heart " * 1000
    (rig.source / "ill").write_bytes(words)
    with pair(rig, "btrfs", second) as other:
        some_days(rig)
        spoil(rig, words)
        done = rig.call("disk", "copy", str(other))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("/ill is damaged and left out") == COUNT
        assert f"{COUNT} snapshots copied, without {COUNT} damaged files" in done.stdout
        for each in rig.disk.glob("laptop/home/*/20*"):
            copied = other / each.relative_to(rig.disk)
            assert {path.name for path in each.iterdir()} - {path.name for path in copied.iterdir()} == {
                "ill"
            }
        rig.config.write_text(rig.config.read_text().replace(str(rig.disk), str(other)))
        listed = json.loads(rig.call("damage", "--json").stdout)
        assert len(listed) == 1
        assert len(listed[0]["places"]) == COUNT


def test_an_older_version_does_not_pass_for_one_that_cannot_be_read(rig: Rig) -> None:
    with pair(rig, "btrfs", "btrfs") as other:
        some_days(rig)
        newest = sorted((rig.disk / "laptop/home/daily").glob("20*"))[-1]
        words = (newest / "large").read_bytes()[1 << 20 : (1 << 20) + 4096]
        spoil(rig, words)
        done = rig.call("disk", "copy", str(other))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{COUNT} snapshots copied, without 1 damaged files" in done.stdout
        assert len(list(other.glob("laptop/home/*/20*/large"))) == COUNT - 1
        assert not (other / newest.relative_to(rig.disk) / "large").exists()


def test_a_snapshot_that_expires_meanwhile_is_no_copy_and_no_failure(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expires(*args: Any, **words: Any) -> Any:
        done = fill(*args, **words)
        if gone:
            gone[0].rename(gone[0].with_name("expired-by-the-engine"))
            gone.clear()
        return done

    with pair(rig, "ext4", "ext4") as other:
        some_days(rig)
        here = config.load(rig.config)
        there = second_disk.other(here, other)
        wanted = second_disk.missing(here, there)
        wanted[0][1].path.rename(wanted[0][1].path.with_name("expired-before"))
        gone = [wanted[1][1].path]
        fill = transfer.fill
        monkeypatch.setattr(second_disk.transfer, "fill", expires)
        made = list(second_disk.copy(here, there, wanted, process.no_pulse))
        assert [each.snapshot.path for each in made] == [each.path for _, each in wanted[2:]]
        assert trees(other) == trees(rig.disk)


def test_before_its_checksums_are_compared_a_copy_has_no_name(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Any:
        raise StoppedError

    with pair(rig, "ext4", "ext4") as other:
        some_days(rig)
        here = config.load(rig.config)
        there = second_disk.other(here, other)
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "describe", stopped)
            with pytest.raises(StoppedError):
                list(second_disk.copy(here, there, second_disk.missing(here, there), process.no_pulse))
        assert trees(other) == {}
        assert rig.call("disk", "copy", str(other)).returncode == 0
        assert trees(other) == trees(rig.disk)


def test_a_snapshot_that_was_held_back_is_accepted_there_too(rig: Rig) -> None:
    with pair(rig, "ext4", "btrfs") as other:
        for number in range(40):
            (rig.source / f"file{number}").write_bytes(os.urandom(500))
        rig.back_up()
        for path in rig.source.iterdir():
            path.write_bytes(os.urandom(500))
        assert rig.call("backup", "laptop").returncode == 1
        assert rig.call("disk", "copy", str(other)).returncode == 0
        assert len(list(other.glob("laptop/home/daily/suspect-*"))) == 1
        assert rig.call("accept", "laptop/home").returncode == 0
        seal(rig)
        done = rig.call("disk", "copy", str(other))
        assert "1 snapshots copied" in done.stdout, done.stderr
        assert trees(other) == trees(rig.disk)
        assert len(trees(other)) == 2


def test_without_checksums_the_copy_says_so(rig: Rig) -> None:
    with pair(rig, "ext4", "ext4") as other:
        some_days(rig)
        for path in (rig.disk / ".flashback/manifests").rglob("*.gz"):
            path.unlink()
        done = rig.call("disk", "copy", str(other), "--json")
        assert done.returncode == 0, done.stderr
        assert {json.loads(line)["proven"] for line in done.stdout.splitlines()} == {False}
        assert trees(other) == trees(rig.disk)


def test_what_is_no_other_disk_is_refused(rig: Rig, tmp_path: Path) -> None:
    with pair(rig, "ext4", "ext4") as other:
        for place, words in (
            (tmp_path / "second", "Nothing is mounted on"),
            (rig.disk, "is the disk itself"),
        ):
            done = rig.call("disk", "copy", str(place))
            assert done.returncode == 2
            assert words in done.stderr
            assert len(done.stderr.splitlines()) == 1
        (other / ".flashback/id").unlink()
        done = rig.call("disk", "copy", str(other))
        assert done.returncode == 2
        assert "disk mark" in done.stderr


def test_a_disk_that_is_too_small_is_refused(rig: Rig) -> None:
    with pair(rig, "ext4", "ext4"):
        (rig.source / "much").write_bytes(os.urandom(60 << 20))
        rig.back_up()
        (rig.top / "small").mkdir()
        with mounted("ext4", rig.top / "small", size=40 << 20) as small:
            done = rig.call("disk", "copy", str(small))
            assert done.returncode == 1
            assert "has room for 0.0 GB" in done.stderr
            assert not list(small.glob("laptop"))


def test_differences_are_found_wherever_they_are(tmp_path: Path) -> None:
    trees_made = []
    for name, files in (("one", "abc"), ("two", "abd")):
        folder = tmp_path / name
        folder.mkdir()
        for each in files:
            (folder / each).write_text(each if each != "b" else name)
        manifest.write(folder, tmp_path / f"{name}.gz", b"x", None, use_ctime=False)
        trees_made.append(tmp_path / f"{name}.gz")
    assert list(second_disk.differing(*trees_made)) == [b"b", b"c", b"d"]
    assert list(second_disk.differing(trees_made[0], trees_made[0])) == []
    trees_made[1].write_bytes(trees_made[1].read_bytes()[:-9])
    with pytest.raises(FlashbackError):
        list(second_disk.differing(*trees_made))
