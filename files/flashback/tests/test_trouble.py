"""What goes wrong around the engine is said and ends nothing: disks, run directories, clocks, deletions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from flashback import actions, config
from flashback.model import JobState
from flashback.status import Board

from .disks import mounted
from .rig import Rig, tree, until

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)


def fake(rig: Rig, program: str, script: str) -> str:
    """Put a small program in front of the real one; return the PATH that finds it."""
    folder = rig.top / "bin"
    folder.mkdir(exist_ok=True)
    (folder / program).write_text(f"#!/bin/sh\n{script}\n")
    (folder / program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def state(rig: Rig) -> str:
    path = rig.run_dir / "status.json"
    return str(json.loads(path.read_text())["engine"]["state"]) if path.exists() else ""


@contextmanager
def remounted_read_only(disk: Path) -> Iterator[None]:
    """Do to a disk what the kernel does when it gives errors."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def test_a_disk_that_became_read_only_is_no_health(rig: Rig) -> None:
    with mounted("ext4", rig.top):
        (rig.source / "a").write_text("1")
        rig.back_up()
        with remounted_read_only(rig.disk):
            done = rig.call("pass")
            assert done.returncode == 1
            assert "cannot be written to" in done.stderr
            assert done.stderr.count("\n") == 1
            daemon = rig.start("run")
            until(lambda: state(rig) == "IDLE")
            said = rig.call("status")
            assert said.returncode == 1
            assert "the last pass failed: The backup disk cannot be written to" in said.stdout
        assert rig.call("pass", "--wait").returncode == 0
        assert rig.call("status").returncode == 0
        daemon.terminate()


def test_a_full_run_directory_ends_neither_the_daemon_nor_a_backup(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.run_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(rig.run_dir)], check=True)
    try:
        ballast = rig.run_dir / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(b"x" * 100_000)
        daemon = rig.start("run")
        until(rig.complete)
        assert daemon.poll() is None
        ballast.unlink()
        assert rig.call("backup", "laptop").returncode == 0
        until(lambda: state(rig) == "IDLE")
        daemon.terminate()
        assert daemon.wait(20) == 0
        assert daemon.communicate()[1].count("cannot be written") == 1
    finally:
        subprocess.run(["umount", "--lazy", str(rig.run_dir)], check=True)


def test_no_pass_waits_until_a_large_tree_is_deleted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (rig.label / "expired-2020-01-01T000000Z").mkdir(parents=True)
    (rig.source / "a").write_text("1")
    monkeypatch.setenv("PATH", fake(rig, "rm", 'sleep 60; exec /bin/rm "$@"'))
    begun = time.monotonic()
    (made,) = actions.run_pass(Board(config.load(rig.config), lambda: NOW), lambda: None)
    assert made.state is JobState.SUCCEEDED
    assert time.monotonic() - begun < 30
    assert list(rig.label.glob("expired-*"))


def test_b20_once_the_clock_is_right_names_from_the_future_go_and_marks_stay(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = ("2026-05-01T000000Z", "2036-05-01T000000Z", "2036-05-02T000000Z")
    for number, name in enumerate(moments):
        (rig.label / name).mkdir(parents=True)
        (rig.label / name / "a").write_text(str(number))
    assert rig.call("keep", f"laptop/home/daily/{moments[1]}", "mine").returncode == 0
    (rig.source / "a").write_text("now")
    monkeypatch.setenv("PATH", fake(rig, "timedatectl", "echo yes"))
    rig.config.write_text(
        rig.config.read_text()
        .replace("wait_for_sync: false", "wait_for_sync: true")
        .replace("keep: 3", "keep: 2")
    )
    made = actions.run_pass(Board(config.load(rig.config), lambda: NOW), lambda: None)
    assert [attempt.reason for attempt in made] == [""]
    found = {path.name: (path / "a").read_text() for path in rig.complete()}
    # The oldest went as the rule says, the marked one stayed, and the order is that in which they were made.
    assert found == {"2026-05-01T000001Z": "1", "2026-05-01T000002Z": "2", "2026-06-01T000000Z": "now"}
    assert "note: mine" in rig.call("retention", "laptop").stdout
    assert tree(rig.complete()[-1]) == tree(rig.source)


def test_stored_data_that_cannot_be_looked_after_is_said(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    in_the_way = rig.disk / ".flashback/manifests"
    in_the_way.write_text("a file where a directory should be")
    daemon = rig.start("run")
    until(lambda: state(rig) == "IDLE")

    def said() -> str:
        """Wake the daemon, which otherwise looks every twenty seconds, and ask how things stand."""
        daemon.send_signal(signal.SIGHUP)
        return rig.call("status").stdout

    until(lambda: "stored data cannot be looked after: sealing laptop/home/daily" in said())
    assert rig.call("status").returncode == 1
    in_the_way.unlink()
    assert rig.call("backup", "laptop", "--wait").returncode == 0
    until(lambda: "looked after" not in said())
    daemon.terminate()
