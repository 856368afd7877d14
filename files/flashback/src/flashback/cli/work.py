"""Commands that make backups: the daemon, a pass, one backup now."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from flashback import config as configuration
from flashback.cli.completing import targets
from flashback.model import Config

T = TypeVar("T")


@click.command()
@click.pass_obj
def run(path: Path) -> None:
    """Run the daemon in the foreground."""
    # A fresh interpreter without this command line: it stays for months on a board with little memory. One
    # arena is enough for its few threads.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    argv = [sys.executable, "-m", "flashback.daemon", str(path)]
    sys.stdout.flush()
    os.execv(sys.executable, argv)  # noqa: S606 - our own interpreter


@click.command("pass")
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.option("-n", "--dry-run", is_flag=True, help="Only list what is due; run and change nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Print the commands that are run (not through a daemon).")
@click.pass_obj
def pass_(path: Path, wait: bool, dry_run: bool, verbose: bool) -> int:
    """Run every job that is due, now."""
    loaded = configuration.load(path)
    if dry_run:
        return _list_due(loaded)
    return _work(loaded, None, wait, verbose)


def _list_due(loaded: Config) -> int:
    from flashback import actions, clock, disk  # noqa: PLC0415 - only what this command needs
    from flashback.status import Board  # noqa: PLC0415

    board = Board(loaded, clock.now)
    actions.refresh(board)
    disk.require(loaded)
    jobs = actions.due(board)
    for job in jobs:
        print(f"{job.name} is due and was not run: dry run")
    if not jobs:
        print("no job is due")
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.option("-v", "--verbose", is_flag=True, help="Print the commands that are run (not through a daemon).")
@click.pass_obj
def backup(path: Path, target: str, wait: bool, verbose: bool) -> int:
    """Back up now, due or not."""
    from flashback import actions  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    actions.select(loaded, target)
    return _work(loaded, target, wait, verbose)


def _work(loaded: Config, target: str | None, wait: bool, verbose: bool) -> int:
    """Let the daemon do it when there is one, else do it here."""
    from flashback import control  # noqa: PLC0415 - as above

    events = control.ask(loaded.run_dir, "pass" if target is None else "backup", target, wait)
    if events is None:
        return _work_here(loaded, target, wait, verbose)
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


def _work_here(loaded: Config, target: str | None, wait: bool, verbose: bool) -> int:
    """Run a pass in this process, as the only engine."""
    import signal  # noqa: PLC0415 - only this command needs it

    from flashback import actions, attempt, clock  # noqa: PLC0415
    from flashback.daemon import log_to_stderr, run_lock  # noqa: PLC0415
    from flashback.errors import StoppedError  # noqa: PLC0415
    from flashback.model import JobState, ServerState  # noqa: PLC0415
    from flashback.status import Board  # noqa: PLC0415

    if verbose:
        log_to_stderr()
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))

    def pulse() -> None:
        if stopping:
            raise StoppedError
        if board.current:
            _print_progress(asdict(board.current.progress))

    def observe(made: attempt.Attempt) -> None:
        if made.state is not JobState.BACKING_UP:
            _print_result(attempt.describe(made))

    deadline = float("inf") if wait else 0.0
    with ExitStack() as stack:
        _insist(lambda: stack.enter_context(run_lock(loaded.run_dir)), deadline)
        board = Board(loaded, clock.now)
        stack.callback(board.turn, ServerState.DOWN, "stopped")
        # The disk's own lock outlives a killed engine until its rsync has ended: wait for that too.
        done = _insist(lambda: actions.run_pass(board, pulse, target=target, observer=observe), deadline)
        actions.sweep(loaded, pulse)
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


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--for", "duration", default="1h", show_default=True, help="How long the job then rests.")
@click.pass_obj
def stop(path: Path, target: str | None, duration: str) -> int:
    """Stop the running backup; what has arrived is kept, and the job is paused for a while."""
    from flashback import control  # noqa: PLC0415 - only what this command needs
    from flashback.errors import NotNowError  # noqa: PLC0415
    from flashback.status import read  # noqa: PLC0415

    loaded = configuration.load(path)
    if target:
        _known(loaded, target)
    made = read(loaded.run_dir)
    running = [each["job"] for each in made["running"]] if made else []
    hit = [name for name in running if not target or f"{name}/".startswith(f"{target.strip('/')}/")]
    if not hit:
        raise NotNowError(
            f"No backup of {target or 'any client'} is running", "`flashback status` shows what is"
        )
    for name in hit:
        _pause(loaded, name, duration)
        answer = next(iter(control.ask(loaded.run_dir, "stop", name, False) or ()), None)
        if answer is None or answer["exit"] != 0:
            raise NotNowError(f"{name} cannot be stopped: no daemon runs it", "End the command that does")
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--for", "duration", default="12h", show_default=True, help="How long, such as 90m or 2d.")
@click.pass_obj
def pause(path: Path, target: str | None, duration: str) -> int:
    """Begin no backup of a client, a volume or a job, or none at all, for some time."""
    loaded = configuration.load(path)
    if target:
        _known(loaded, target)
    _pause(loaded, target or "", duration)
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.pass_obj
def resume(path: Path, target: str | None) -> int:
    """End a pause, of the same target as it was begun with."""
    from flashback import clock, disk  # noqa: PLC0415 - only what this command needs
    from flashback import pause as pauses  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    name = (target or "").strip("/")
    if pauses.end(loaded.data_dir, name, clock.now()):
        print(f"{name or 'everything'} goes on")
    else:
        held = (
            ", ".join(each or "everything" for each in pauses.load(loaded.data_dir, clock.now())) or "nothing"
        )
        print(f"{name or 'everything'} was not paused; paused is {held}")
    return 0


def _pause(loaded: Config, target: str, duration: str) -> None:
    from flashback import clock, disk  # noqa: PLC0415 - only what these commands need
    from flashback import pause as pauses  # noqa: PLC0415
    from flashback.errors import UsageError  # noqa: PLC0415

    disk.require(loaded)
    try:
        seconds = configuration.seconds(duration)
    except ValueError as error:
        raise UsageError(str(error)) from None
    until = pauses.begin(loaded.data_dir, target.strip("/"), seconds, clock.now())
    print(f"{target or 'everything'} is paused until {until.astimezone():%Y-%m-%d %H:%M:%S}")


def _known(loaded: Config, target: str) -> None:
    """Refuse a target that names nothing, with the names that there are."""
    from flashback import actions  # noqa: PLC0415 - only what these commands need

    actions.select(loaded, target)
