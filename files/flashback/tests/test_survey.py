"""Backups that look only at what differs between two listings equal backups that look at everything."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from flashback import actions, chores
from flashback.errors import FlashbackError
from flashback.model import Config, Job, JobState, Keep
from flashback.process import no_pulse
from flashback.shelf import Shelf
from flashback.status import Board
from flashback.store import Store, open_store

from .disks import KINDS, mounted
from .rig import Rig, tree, until

# Times of files: long before the listing, so that none is in doubt.
LONG_AGO = 1_600_000_000
SEEDS = range(int(os.environ.get("FLASHBACK_TEST_SEEDS", "3")))


@dataclass
class Plug:
    """A disk, a source on the same machine, and a clock that goes on by a day for each backup."""

    disk: Path
    source: Path
    job: Job
    days: int = 0
    older: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return Config(
            Path("-"), self.disk, run_dir=self.disk.parent / "run", wait_for_sync=False, jobs=(self.job,)
        )

    @property
    def store(self) -> Store:
        return open_store(self.disk)

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), timezone.utc) + timedelta(days=self.days)

    def back_up(self) -> Path:
        """Back up and hold everything against the source, and the older snapshots against themselves."""
        self.days += 1
        (made,) = actions.run_pass(Board(self.config, self.now), no_pulse, target=self.job.host)
        assert made.state is JobState.SUCCEEDED, made.reason
        newest = self.store.snapshots(self.job)[-1].path
        assert tree(newest) == tree(self.source)
        for each in self.store.snapshots(self.job):
            assert self.older.setdefault(each.name, tree(each.path)) == tree(each.path), each.name
        return newest

    def chores(self) -> None:
        chores.make_ready(self.config, self.store, self.job, no_pulse)

    def looked_at_all(self) -> bool:
        """Return whether the newest snapshot was made by comparing everything."""
        known = Shelf(self.disk, self.job).known(self.store.snapshots(self.job)[-1].name)
        return known is None or known.base is None


@pytest.fixture(params=KINDS)
def plug(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Plug]:
    source = tmp_path / "source"
    source.mkdir()
    job = Job(
        "laptop", "home", "daily", source=str(source), addresses=(), local=True, guard=False,
        keep=Keep(last=3), full_every=10**9,
    )  # fmt: skip
    options = "loop,noatime" + (",user_subvol_rm_allowed" if request.param == "btrfs" else "")
    with mounted(request.param, tmp_path, options=options) as disk:
        yield Plug(disk, source, job)


class Editor:
    """Does to a tree what people and programs do, the traps included."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.numbers = random.Random(seed)
        self.clock = LONG_AGO

    def stamp(self, path: Path) -> None:
        """Give an entry a time of its own."""
        self.clock += self.numbers.randrange(2, 5000)
        nanoseconds = self.clock * 10**9 + self.numbers.randrange(10**9)
        os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)

    def files(self) -> list[Path]:
        return [path for path in sorted(self.top.rglob("*")) if stat.S_ISREG(path.lstat().st_mode)]

    def folders(self) -> list[Path]:
        return [
            self.top,
            *(path for path in sorted(self.top.rglob("*")) if path.is_dir() and not path.is_symlink()),
        ]

    def new_name(self) -> Path:
        odd = self.numbers.choice(["", "-", " -> ", "\n", "\t", "\\#012", "ü", os.fsdecode(b"\xff"), "[a]*?"])
        return self.numbers.choice(self.folders()) / f"n{odd}{self.numbers.randrange(10**9)}"

    def write(self, path: Path, size: int | None = None) -> None:
        path.write_bytes(self.numbers.randbytes(self.numbers.randrange(3000) if size is None else size))
        if self.numbers.random() < 0.2:
            os.setxattr(path, "user.note", self.numbers.randbytes(10))
        self.stamp(path)

    def begin(self, count: int = 60) -> None:
        for _ in range(count // 5):
            self.new_name().mkdir()
        for _ in range(count):
            self.write(self.new_name())
        for path in self.folders():
            self.stamp(path)

    def edit(self) -> None:
        """Do one thing to one place; folders get a new time as the kernel gives them one."""
        what = self.numbers.choice([each for each in dir(self) if each.startswith("do_")])
        path = self.numbers.choice(self.files() or [self.top])
        getattr(self, what)(path)
        now = time.time() - 60
        for folder in self.folders():
            if folder.stat().st_mtime > now:
                self.stamp(folder)

    def do_write(self, path: Path) -> None:
        if path.is_file():
            self.write(path)

    def do_write_in_the_middle(self, path: Path) -> None:
        if path.is_file() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(self.numbers.randrange(path.stat().st_size))
                file.write(b"x")
            self.stamp(path)

    def do_change_mode(self, path: Path) -> None:
        path.chmod(self.numbers.choice([0o600, 0o644, 0o4755, 0o700, 0o1777]))

    def do_change_owner(self, path: Path) -> None:
        os.chown(path, self.numbers.randrange(3000), self.numbers.randrange(3000))

    def do_change_time(self, path: Path) -> None:
        self.stamp(path)

    def do_change_folder_time(self, path: Path) -> None:
        self.stamp(path.parent)

    def do_change_folder_mode(self, path: Path) -> None:
        self.numbers.choice(self.folders()).chmod(self.numbers.choice([0o700, 0o755, 0o2770]))

    def do_change_attributes_again(self, path: Path) -> None:
        if path.is_file() and os.listxattr(path):
            os.setxattr(path, "user.note", self.numbers.randbytes(10))

    def do_take_attributes_away(self, path: Path) -> None:
        if path.is_file() and os.listxattr(path):
            os.removexattr(path, "user.note")

    def do_allow_somebody(self, path: Path) -> None:
        subprocess.run(["setfacl", "-m", f"u:{self.numbers.randrange(2000)}:rwx", str(path)], check=True)
        # The mask shows in the mode; a listing shows no more of it than that.
        self.stamp(path)

    def do_link(self, path: Path) -> None:
        if path.is_file():
            self.new_name().hardlink_to(path)

    def do_part(self, path: Path) -> None:
        """Break a hard link; content, times and modes stay."""
        several = [each for each in self.files() if each.stat().st_nlink > 1]
        if several:
            place = self.numbers.choice(several)
            subprocess.run(["cp", "-a", "--", str(place), str(self.top.parent / "copy")], check=True)
            place.unlink()
            (self.top.parent / "copy").rename(place)

    def do_exchange_within_a_second(self, path: Path) -> None:
        """Two files of one size and second change their names; nothing but nanoseconds and content tells."""
        one, other = path.parent / f"x{self.numbers.randrange(10**9)}", path.parent / "exchanged"
        for each in (one, other):
            if not each.is_dir():
                each.unlink(missing_ok=True)
                write(each, self.numbers.randbytes(100), LONG_AGO, self.numbers.randrange(10**9))
        self.exchange = (one, other)

    def do_exchange_now(self, path: Path) -> None:
        one, other = getattr(self, "exchange", (path, path))
        if one != other and one.is_file() and other.is_file():
            one.rename(one.with_name("meanwhile"))
            other.rename(one)
            one.with_name("meanwhile").rename(other)

    def do_delete(self, path: Path) -> None:
        if path != self.top:
            path.unlink()

    def do_delete_folder(self, path: Path) -> None:
        if len(self.folders()) > 4 and path.parent != self.top:
            subprocess.run(["rm", "-rf", "--", str(path.parent)], check=True)

    def do_rename(self, path: Path) -> None:
        if path != self.top:
            path.rename(self.new_name())

    def do_rename_folder(self, path: Path) -> None:
        if path.parent != self.top:
            path.parent.rename(self.top / f"renamed{self.numbers.randrange(10**9)}")

    def do_make(self, path: Path) -> None:
        self.write(self.new_name())

    def do_make_folder(self, path: Path) -> None:
        made = self.new_name()
        made.mkdir()
        self.write(made / "inside")

    def do_become_folder(self, path: Path) -> None:
        if path != self.top:
            path.unlink()
            path.mkdir()
            self.write(path / "inside")

    def do_become_link(self, path: Path) -> None:
        if path != self.top:
            path.unlink()
            path.symlink_to(f"to -> {self.numbers.randrange(10**6)}")
            self.stamp(path)

    def do_become_pipe(self, path: Path) -> None:
        if path != self.top:
            path.unlink()
            os.mkfifo(path)
            self.stamp(path)

    def do_folder_becomes_file(self, path: Path) -> None:
        if path.parent != self.top:
            subprocess.run(["rm", "-rf", "--", str(path.parent)], check=True)
            self.write(path.parent)

    def do_make_device(self, path: Path) -> None:
        made = self.new_name()
        os.mknod(made, stat.S_IFCHR | 0o600, os.makedev(1, self.numbers.randrange(3, 9)))
        self.stamp(made)

    def do_make_large(self, path: Path) -> None:
        large = self.top / "large"
        if large.is_file() or not os.path.lexists(large):
            self.write(large, 17 << 20)

    def do_date_into_the_future(self, path: Path) -> None:
        at = (4_000_000_000 + self.numbers.randrange(1000)) * 10**9
        os.utime(path, ns=(at, at))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_found_by_listings_equals_what_is_there(plug: Plug, seed: int) -> None:
    editor = Editor(plug.source, seed)
    editor.begin()
    plug.back_up()
    for _ in range(12):
        plug.chores()
        for _ in range(editor.numbers.randrange(9)):
            editor.edit()
        plug.back_up()
        assert not plug.looked_at_all()


def test_holes_of_large_files_stay_holes(plug: Plug) -> None:
    begin(plug)
    for number, name in enumerate(("first", "first", "second", "first")):
        with (plug.source / name).open("a+b") as file:
            file.truncate(48 << 20)
            file.write(b"%d" % number)
        os.utime(plug.source / name, (LONG_AGO + 100 * number,) * 2)
        newest = plug.back_up()
        plug.chores()
        for path in newest.glob("*t*"):
            assert path.stat().st_blocks * 512 < 1 << 20, path


def test_a_prepared_tree_that_is_not_as_listed_costs_one_pass(plug: Plug) -> None:
    (plug.source / "folder").mkdir()
    write(plug.source / "folder/file", b"1", LONG_AGO)
    begin(plug)
    shutil.rmtree(plug.source / "folder")
    prepared = list((plug.disk / plug.job.name).glob("prepared-*/folder"))
    for folder in prepared:
        (folder / "stranger").write_text("not listed")
    if prepared:
        plug.days += 1
        (made,) = actions.run_pass(Board(plug.config, plug.now), no_pulse, target=plug.job.host)
        assert (made.state, "more than was listed" in made.reason) == (JobState.FAILED, True)
    plug.back_up()
    assert plug.looked_at_all() == bool(prepared)


def test_without_chores_everything_is_compared(plug: Plug) -> None:
    Editor(plug.source, 1).begin()
    plug.back_up()
    plug.back_up()
    assert plug.looked_at_all()


def write(path: Path, content: bytes, at: float, nanoseconds: int = 0) -> None:
    path.write_bytes(content)
    moment = int(at) * 10**9 + nanoseconds
    os.utime(path, ns=(moment, moment))


def begin(plug: Plug, count: int = 5) -> None:
    """Make the first backup of some old files, and all that the second one needs."""
    for number in range(count):
        write(plug.source / f"old{number}", b"old%d" % number, LONG_AGO + 10 * number)
    os.utime(plug.source, (LONG_AGO, LONG_AGO))
    plug.back_up()
    plug.chores()


def test_a_change_in_the_second_of_the_listing_is_found(plug: Plug) -> None:
    file = plug.source / "a"
    for round_ in range(3):
        at = time.time()
        for number, word in enumerate((b"first%d", b"other%d")):
            write(file, word % round_, at, number)
            os.utime(plug.source, (LONG_AGO, LONG_AGO))
            plug.days = -1
            plug.back_up()
            plug.chores()
    assert not plug.looked_at_all()


def test_it_is_found_on_a_client_whose_clock_is_slow(plug: Plug) -> None:
    plug.days = -1
    begin(plug)
    at = time.time() - 20_000
    plug.days = -1
    write(plug.source / "old1", b"new1", at, 1)
    plug.back_up()
    plug.chores()
    assert not plug.looked_at_all()
    write(plug.source / "old1", b"new2", at, 2)
    plug.days = -1
    plug.back_up()
    assert not plug.looked_at_all()


def test_what_the_client_parted_is_parted_here(plug: Plug) -> None:
    write(plug.source / "a", b"one file", LONG_AGO)
    for name in "bcd":
        (plug.source / name).hardlink_to(plug.source / "a")
    begin(plug)
    for name in "ac":
        copy = plug.source / "copy"
        subprocess.run(["cp", "-a", "--", str(plug.source / name), str(copy)], check=True)
        copy.rename(plug.source / name)
    newest = plug.back_up()
    assert not plug.looked_at_all()
    assert len({(newest / name).stat().st_ino for name in "abcd"}) == 3


def test_unchanged_files_are_not_stored_again(plug: Plug) -> None:
    begin(plug)
    first = plug.store.snapshots(plug.job)[-1].path
    write(plug.source / "old1", b"changed", LONG_AGO + 500)
    newest = plug.back_up()
    same = [name.name for name in first.iterdir() if name.stat().st_ino == (newest / name.name).stat().st_ino]
    if plug.store.kind == "hardlink":
        assert sorted(same) == ["old0", "old2", "old3", "old4"]


def test_an_expired_tree_serves_the_next_backup(plug: Plug) -> None:
    if plug.store.kind == "btrfs":
        plug.chores()
        assert plug.store.snapshots(plug.job) == []
        return
    begin(plug)
    for number in range(4):
        write(plug.source / "new", b"new%d" % number, LONG_AGO + 1000 + number)
        plug.back_up()
        if number < 3:
            plug.chores()
    label = plug.disk / plug.job.name
    (expired,) = label.glob("expired-*")
    inode = expired.stat().st_ino
    plug.chores()
    (prepared,) = label.glob("prepared-*")
    assert prepared.stat().st_ino == inode
    assert tree(prepared) == tree(plug.source)
    assert list(label.glob("expired-*")) == []


def broken_rm(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deleting a tree end after its first file, as an engine that is killed does."""
    folder = plug.disk.parent / "bin"
    folder.mkdir()
    (folder / "rm").write_text(
        "#!/bin/sh\n"
        'for tree; do [ -d "$tree" ] && find "$tree" -type f | head -n 1 | xargs /bin/rm -f; done\n'
        "exit 1\n"
    )
    (folder / "rm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_tree_whose_deletion_was_interrupted_serves_no_backup(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(plug)
    for number in range(4):
        write(plug.source / "new", b"new%d" % number, LONG_AGO + 1000 + number)
        plug.back_up()
        if number < 3:
            plug.chores()
    with monkeypatch.context() as within:
        broken_rm(plug, within)
        for work in (plug.store.sweep, plug.store.discard):
            with contextlib.suppress(FlashbackError):
                work(plug.job, no_pulse)
    for _ in range(2):
        plug.chores()
        plug.back_up()
    plug.chores()
    assert not [path.name for path in (plug.disk / plug.job.name).glob("deleting-*")]


def test_a_prepared_tree_whose_deletion_was_interrupted_is_not_begun_with(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(plug)
    with monkeypatch.context() as within:
        broken_rm(plug, within)
        with contextlib.suppress(FlashbackError):
            plug.store.discard(plug.job, no_pulse)
    plug.back_up()


def test_a_file_that_was_taken_away_is_fetched_again(plug: Plug) -> None:
    begin(plug)
    newest = plug.store.snapshots(plug.job)[-1]
    plug.store.mend(newest, b"old1", None)
    plug.older.clear()
    plug.chores()
    plug.back_up()
    assert plug.looked_at_all()


def test_everything_is_compared_from_time_to_time_and_after_other_settings(plug: Plug) -> None:
    begin(plug)
    plug.back_up()
    assert not plug.looked_at_all()
    plug.job = replace(plug.job, full_every=86400)
    plug.back_up()
    assert plug.looked_at_all()
    plug.chores()
    plug.job = replace(plug.job, full_every=10**9, one_file_system=False)
    plug.back_up()
    assert plug.looked_at_all()
    plug.chores()
    plug.job = replace(plug.job, detect="full")
    plug.back_up()
    assert plug.looked_at_all()


def test_a_name_that_makes_a_hard_link_unclear_is_no_danger(plug: Plug) -> None:
    write(plug.source / "a => b", b"one file", LONG_AGO)
    begin(plug)
    (plug.source / "c").hardlink_to(plug.source / "a => b")
    plug.back_up()
    (plug.source / "d => e").hardlink_to(plug.source / "c")
    plug.back_up()


def test_the_guard_sees_a_source_that_was_emptied_or_altered(plug: Plug) -> None:
    plug.job = replace(plug.job, guard=True)
    begin(plug, 100)
    for path in list(plug.source.iterdir())[:60]:
        write(path, b"altered", LONG_AGO + 9999)
    (made,) = actions.run_pass(Board(plug.config, plug.now), no_pulse, target="laptop")
    assert made.state is JobState.FAILED
    assert "60 of the 100 files" in made.reason


def test_a_file_that_vanishes_or_changes_during_the_listing_is_no_danger(plug: Plug) -> None:
    begin(plug, 30)
    for number in range(8):
        script = "for n in $(seq 200); do rm -f r$n; echo $n > w$((n % 7)); mv w$((n % 7)) r$((n % 5)); done"
        busy = subprocess.Popen(["sh", "-c", script], cwd=plug.source)
        plug.days += 1
        (made,) = actions.run_pass(Board(plug.config, plug.now), no_pulse, target="laptop")
        assert made.state is JobState.SUCCEEDED, (number, made.reason)
        busy.wait()
        plug.chores()
    plug.back_up()
    assert not plug.looked_at_all()


def test_a_change_within_the_second_of_two_quick_backups_is_stored(plug: Plug) -> None:
    begin(plug, 5)
    second = int(time.time())
    for number, content in enumerate((b"one", b"one", b"two")):
        write(plug.source / "quick", content, second, number)
        os.utime(plug.source, (second, second))
        plug.back_up()
        plug.chores()
    assert not plug.looked_at_all()


def test_the_daemon_prepares_the_next_backup_over_ssh_too(rig: Rig) -> None:
    for number in range(20):
        write(rig.source / f"file{number}", b"old", LONG_AGO + 10 * number)
    os.utime(rig.source, (LONG_AGO, LONG_AGO))
    daemon = rig.start("run")
    until(lambda: list(rig.label.glob("prepared-*")))
    write(rig.source / "file3", b"new", LONG_AGO + 1000)
    assert rig.call("backup", "laptop", "--wait").returncode == 0
    assert tree(rig.complete()[-1]) == tree(rig.source)
    until((rig.label / f"prepared-{rig.complete()[-1].name}").is_dir, 60)
    daemon.terminate()
    _, said = daemon.communicate()
    assert said.count("every entry is compared") == 1
    assert "1 entries are looked at" in said or "2 entries are looked at" in said, said
