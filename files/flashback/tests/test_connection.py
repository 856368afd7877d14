"""All that a backup asks of a client goes over one connection; without it each rsync makes its own."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from .rig import Rig, tree, until

ENTERED = "Accepted publickey"


def entered(rig: Rig) -> int:
    """Return how often the client let the plug in."""
    return rig.door.read_text().count(ENTERED)


def masters(rig: Rig) -> list[int]:
    """Return the processes that keep a connection to this client."""
    found = subprocess.run(
        ["pgrep", "-f", f"ssh .*{rig.top}/id .*-N"], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def second_backup(rig: Rig) -> int:
    """Back up, prepare and back up a change; return how often the client was entered for the second."""
    (rig.source / "a").write_text("a")
    (rig.source / "old").write_text("old")
    os.utime(rig.source / "old", (1_600_000_000, 1_600_000_000))
    rig.back_up()
    done = rig.call("chores")
    assert done.returncode == 0, done.stderr
    (rig.source / "a").write_text("changed")
    before = entered(rig)
    newest = rig.back_up()
    assert tree(newest) == tree(rig.source)
    return entered(rig) - before


def test_listing_and_fetching_share_one_connection_that_ends_with_the_backup(rig: Rig) -> None:
    assert second_backup(rig) == 1
    assert not masters(rig)
    assert not list(rig.run_dir.glob("ssh-*"))


def test_where_no_socket_can_be_made_each_connects_by_itself(rig: Rig) -> None:
    long = rig.top / ("r" * 100)
    rig.config.write_text(rig.config.read_text().replace(f"run_dir: {rig.run_dir}", f"run_dir: {long}"))
    assert second_backup(rig) == 2


def test_one_that_breaks_costs_nothing_but_a_second_backup(rig: Rig) -> None:
    rig.configure("{period: 1d, keep: 3, bandwidth_limit: 1M}")
    (rig.source / "big").write_bytes(os.urandom(3_000_000))
    running = rig.start("backup", "laptop")
    until(lambda: masters(rig) and rig.rsyncs())
    os.kill(masters(rig)[0], signal.SIGKILL)
    running.communicate(timeout=60)
    rig.back_up()
    assert tree(rig.complete()[-1]) == tree(rig.source)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_an_engine_that_is_ended(rig: Rig, number: signal.Signals) -> None:
    rig.configure("{period: 1d, keep: 3, bandwidth_limit: 1M}")
    (rig.source / "big").write_bytes(os.urandom(3_000_000))
    running = rig.start("backup", "laptop")
    until(lambda: masters(rig) and rig.rsyncs())
    running.send_signal(number)
    running.communicate(timeout=60)
    until(lambda: not masters(rig))
