"""Kill the engine, and what it runs, at every step that changes the disk: nothing complete is ever harmed.

The engine runs in a forked child. An audit hook of Python counts the steps of that child, each rename,
unlink, mkdir, opening for writing and start of a program, and kills the child right before the n-th one.
Programs are killed in the middle by strace, right before their n-th rename, link or unlink, and the engine
with them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flashback import actions, chores, config
from flashback.attempt import Attempt
from flashback.errors import BusyError
from flashback.model import JobState, snapshot_name
from flashback.status import Board
from flashback.store import open_store
from flashback.store.trees import synced_before

from .disks import KINDS, mounted
from .rig import tree, until

# Long after the times of all files here, so that a listing leaves no doubt about them.
BEGIN = datetime(2050, 1, 1, tzinfo=timezone.utc)
STEPS = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.utime", "subprocess.Popen"}
)
WRITING = os.O_WRONLY | os.O_RDWR
FILES = 12
KEPT = 2
# Programs with the call before which they are killed, and the number of that call.
MOMENTS = (
    ("rsync", "rename", 1),
    ("rsync", "rename", 3),
    ("rsync", "link", 1),
    ("cp", "link", 1),
    ("cp", "link", 11),
    ("rm", "unlink", 1),
    ("rm", "unlink", 5),
)
# Where snapshots are subvolumes nothing is linked and no tree is removed file by file.
SUBVOLUMES = (("rsync", "rename", 1), ("rsync", "rename", 2), ("rsync", "rename", 3))
OPTIONS = {"btrfs": "loop,noatime,user_subvol_rm_allowed"}


@dataclass
class Victim:
    """An engine with a disk and a source on this machine; days pass with every run."""

    top: Path
    disk: Path
    kind: str
    day: int = 0
    edits: int = 1_000_000_000
    numbers: random.Random = field(default_factory=lambda: random.Random(11))

    def __post_init__(self) -> None:
        self.source.mkdir()
        for number in range(FILES):
            folder = self.source / f"folder{number % 2}"
            folder.mkdir(exist_ok=True)
            (folder / f"{number:03}").write_bytes(self.numbers.randbytes(3000))
        (self.source / "folder0/linked").hardlink_to(self.source / "folder0/000")
        self.configure()

    @property
    def source(self) -> Path:
        return self.top / "source"

    def configure(self, setting: str = "guard: true") -> None:
        (self.top / "flashback.yml").write_text(
            f"data_dir: {self.disk}\nrun_dir: {self.top}/run\nclock: {{wait_for_sync: false}}\n"
            "space: {reserve_percent: 0, reserve_inodes_percent: 0}\n"
            "hosts:\n  box:\n    volumes:\n      all:\n"
            f"        source: {self.source}\n        local: true\n        {setting}\n        jobs:\n"
            f"          daily: {{keep: {KEPT}}}\n          weekly: {{from: daily, keep: {KEPT}}}\n"
        )

    def label(self, name: str) -> Path:
        return self.disk / "box/all" / name

    def complete(self) -> dict[str, Any]:
        """Return every complete snapshot with all that is in it."""
        return {str(path): tree(path) for path in sorted(self.disk.glob("box/all/*/20*Z"))}

    def edit(self) -> None:
        """Change the source a little: content, mode, a name, a link."""
        for number in self.numbers.sample(range(FILES), 4):
            path = self.source / f"folder{number % 2}/{number:03}"
            path.write_bytes(self.numbers.randbytes(3000))
            path.chmod(self.numbers.choice([0o600, 0o644, 0o640]))
            self.stamp(path)
        new = self.source / "folder1" / f"new{self.day % 3}"
        new.write_text(str(self.day))
        self.stamp(new)
        (self.source / "folder1" / f"new{(self.day + 1) % 3}").unlink(missing_ok=True)

    def stamp(self, path: Path) -> None:
        """Give a file a second of its own: by a clock years ahead no change of this moment is in doubt."""
        self.edits += 1
        os.utime(path, (self.edits, self.edits))

    def now(self) -> datetime:
        return BEGIN + timedelta(days=self.day)

    def begin(self) -> None:
        """Make the first snapshots."""
        for _ in range(KEPT):
            self.day += 1
            self.run()

    def work(self, checkpoint: float | None = None) -> list[Attempt]:
        """Run a pass in this process, and what is done between the backups."""
        board = Board(config.load(self.top / "flashback.yml"), self.now)
        done = actions.run_pass(board, lambda: None, target="box", checkpoint=checkpoint)
        for job in board.config.jobs:
            chores.make_ready(board.config, open_store(self.disk), job, lambda: None)
        return done

    def run(self) -> list[Attempt]:
        """Run a pass to its end, once what a killed engine left running has ended."""
        made: list[Attempt] = []

        def free() -> bool:
            try:
                made[:] = self.work()
            except BusyError:
                return False
            return True

        until(free)
        return made

    def killed(self, prepare: Callable[[], None]) -> bool:
        """Run a pass in a child that `prepare` dooms; return whether it was killed."""
        child = os.fork()
        if child == 0:
            try:
                prepare()
                self.work()
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def doom(folder: Path, program: str, call: str, number: int) -> None:
    """Let a program of this process be killed right before a call, and this process with it."""
    folder.mkdir(exist_ok=True)
    log, real = folder / "strace", shutil.which(program)
    log.unlink(missing_ok=True)
    (folder / program).write_text(
        "#!/bin/sh\n"
        f"strace -f -q -o {log} -e trace=/^{call} -e inject=/^{call}:signal=KILL:when={number} {real} "
        '"$@"\n'
        "status=$?\n"
        f"grep -q 'killed by SIGKILL' {log} && kill -KILL {os.getpid()}\n"
        "exit $status\n"
    )
    (folder / program).chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def count_and_kill(disk: str, step: int) -> None:
    """Kill this process right before the step of that number."""
    steps = 0

    def below_disk(word: Any) -> bool:
        """Return whether this is an open folder below the disk, to which a name is relative."""
        return isinstance(word, int) and word > 2 and disk in os.path.realpath(f"/proc/self/fd/{word}")

    def watch(event: str, words: tuple[Any, ...]) -> None:
        nonlocal steps
        if event == "open":
            relevant = disk in str(words[0]) and bool((words[2] or 0) & WRITING)
        elif event == "subprocess.Popen":
            # Asking changes nothing: only what works on the disk counts.
            relevant = disk in f"{words[1]} {words[2]}"
        else:
            relevant = event in STEPS and (disk in str(words) or any(map(below_disk, words)))
        if relevant:
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


@pytest.fixture(params=KINDS)
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Victim]:
    with mounted(request.param, tmp_path, OPTIONS.get(request.param, "loop,noatime")) as disk:
        yield Victim(tmp_path, disk, request.param)


def check(victim: Victim, before: dict[str, Any], wanted: Any) -> None:
    """What was complete is as it was; what is complete now is the whole source; what expired may be gone."""
    after = victim.complete()
    new = set(after) - set(before)
    for path in new:
        assert after[path] == wanted, f"{path} is believed, but is not what the source is"
    for path in set(before) & set(after):
        assert after[path] == before[path], f"{path} has changed"
    for label in ("daily", "weekly"):
        gone = [path for path in before if f"/{label}/" in path and path not in after]
        left = [path for path in after if f"/{label}/" in path]
        assert len(left) >= KEPT, f"{gone} went and nothing came"
        assert not gone or max(gone) < min(left), f"{gone} went before {left}"


def finish(victim: Victim) -> None:
    """The next pass does all that the killed one did not, and leaves no trace of it."""
    victim.day += 1
    wanted = tree(victim.source)
    assert {attempt.state for attempt in victim.run()} == {JobState.SUCCEEDED}
    for label in ("daily", "weekly"):
        found = sorted(path.name for path in victim.label(label).iterdir())
        prepared = [name for name in found if name.startswith("prepared-")]
        found = [name for name in found if name not in prepared]
        assert found[-1] == snapshot_name(victim.now())
        assert prepared in ([], [f"prepared-{found[-1]}"])
        assert [name for name in found if not name.startswith("20")] == []
        assert len(found) == KEPT
        assert tree(victim.label(label) / found[-1]) == wanted


def test_killed_before_any_step_and_again_while_it_recovers(victim: Victim) -> None:
    victim.begin()
    # Where trees are linked every step is tried on ext4; the same code needs fewer on xfs.
    stride = 3 if victim.kind == "xfs" else 1
    step, dead = 0, True
    while dead:
        step += stride
        victim.edit()
        wanted, before = tree(victim.source), victim.complete()
        for _ in range(2):
            victim.day += 1
            dead = victim.killed(partial(count_and_kill, str(victim.disk), step))
            check(victim, before, wanted)
        # Now and then the next death comes before anything is finished.
        if step % 3 == 0:
            victim.edit()
            finish(victim)
    finish(victim)
    assert step > 15


def test_killed_in_the_middle_of_a_program(victim: Victim) -> None:
    victim.begin()
    moments = SUBVOLUMES if victim.kind == "btrfs" else MOMENTS
    for program, call, number in moments:
        victim.edit()
        wanted, before = tree(victim.source), victim.complete()
        victim.day += 1
        folder = victim.top / f"{program}-{call}-{number}"
        assert victim.killed(partial(doom, folder, program, call, number)), folder.name
        check(victim, before, wanted)
        victim.edit()
        finish(victim)


def test_what_was_safe_on_the_disk_before_the_kill_is_not_sent_again(victim: Victim) -> None:
    victim.begin()
    for number in range(30):
        (victim.source / f"big{number:02}").write_bytes(victim.numbers.randbytes(40_000))
    incoming = victim.label("daily") / "incoming"

    def safe() -> dict[str, int]:
        """Return the inodes of the files that arrived before the last checkpoint began."""
        moment = synced_before(victim.label("daily"))
        found = {path.name: path.stat() for path in incoming.glob("big*")}
        return {name: status.st_ino for name, status in found.items() if status.st_ctime_ns < moment}

    victim.day += 1
    victim.configure("bandwidth_limit: 500K")
    child = os.fork()
    if child == 0:
        try:
            victim.work(checkpoint=0.2)
        finally:
            os._exit(0)
    until(lambda: len(safe()) > 5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    arrived = safe()
    assert 5 < len(arrived) < 30
    victim.configure()
    finish(victim)
    daily = victim.label("daily") / snapshot_name(victim.now())
    assert {name: (daily / name).stat().st_ino for name in arrived} == arrived
