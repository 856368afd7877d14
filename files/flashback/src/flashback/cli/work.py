"""Commands that make backups: the daemon, a pass, one backup now."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from flashback import config as configuration
from flashback.model import Config

T = TypeVar("T")


@click.command()
@click.pass_obj
def run(path: Path) -> None:
    """Run the daemon in the foreground."""
    # A fresh interpreter without this command line: it stays for months on a board with little memory.
    argv = [sys.executable, "-m", "flashback.daemon", str(path)]
    sys.stdout.flush()
    os.execv(sys.executable, argv)  # noqa: S606 - our own interpreter


@click.command("pass")
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.pass_obj
def pass_(path: Path, wait: bool) -> int:
    """Run every job that is due, now."""
    return _work(configuration.load(path), None, wait)


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]")
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.pass_obj
def backup(path: Path, target: str, wait: bool) -> int:
    """Back up now, due or not."""
    from flashback import actions  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    actions.select(loaded, target)
    return _work(loaded, target, wait)


def _work(loaded: Config, target: str | None, wait: bool) -> int:
    """Let the daemon do it when there is one, else do it here."""
    from flashback import control  # noqa: PLC0415 - as above

    events = control.ask(loaded.run_dir, "pass" if target is None else "backup", target, wait)
    if events is None:
        return _work_here(loaded, target, wait)
    for event in events:
        if event["event"] == "job":
            if event["state"] != "BACKING_UP":
                _print_result(event["line"])
        elif event["event"] == "progress":
            _print_progress(event)
        elif event["event"] == "end":
            if event["message"]:
                print(f"flashback: {event['message']}", file=sys.stderr)
            return int(event["exit"])
    return 1


def _work_here(loaded: Config, target: str | None, wait: bool) -> int:
    """Run a pass in this process, as the only engine."""
    import signal  # noqa: PLC0415 - only this command needs it

    from flashback import actions, clock  # noqa: PLC0415
    from flashback.daemon import run_lock  # noqa: PLC0415
    from flashback.errors import StoppedError  # noqa: PLC0415
    from flashback.model import JobState, ServerState  # noqa: PLC0415
    from flashback.status import Board  # noqa: PLC0415

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))

    def pulse() -> None:
        if stopping:
            raise StoppedError
        if board.current:
            _print_progress(vars(board.progress))

    def observe(attempt: actions.Attempt) -> None:
        if attempt.state is not JobState.BACKING_UP:
            _print_result(actions.describe(attempt))

    deadline = float("inf") if wait else 0.0
    with ExitStack() as stack:
        _insist(lambda: stack.enter_context(run_lock(loaded.run_dir)), deadline)
        board = Board(loaded, clock.now)
        stack.callback(board.turn, ServerState.DOWN, "stopped")
        # The disk's own lock outlives a killed engine until its rsync has ended: wait for that too.
        done = _insist(lambda: actions.run_pass(board, pulse, target=target, observer=observe), deadline)
    return actions.exit_code(done)


def _insist(work: Callable[[], T], deadline: float) -> T:
    """Return what the work returns; while another run is in the way, try again until the deadline."""
    from flashback.errors import BusyError  # noqa: PLC0415 - as above

    while True:
        try:
            return work()
        except BusyError:  # noqa: PERF203 - waits anyway
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)


def _print_result(line: str) -> None:
    print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)


def _print_progress(progress: dict[str, Any]) -> None:
    if sys.stdout.isatty():
        rate = progress["rate"] / 1e6
        amount = f"{progress['files']} files  {progress['bytes']} bytes"
        print(f"\r\033[K{progress['percent']:3} %  {amount}  {rate:.1f} MB/s", end="", flush=True)
