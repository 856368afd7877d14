"""Commands that make backups: the daemon, a pass, one backup now."""

from __future__ import annotations

import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from flashback import config as configuration
from flashback.cli import console
from flashback.cli.completing import targets
from flashback.model import Config, JobState, Progress, iso

T = TypeVar("T")


@click.command()
@click.pass_obj
def run(path: Path) -> None:
    """Run the daemon, which makes all backups by itself.

    It stays in the foreground, for systemd or for a look at what it does.
    """
    # A fresh interpreter without this command line: it stays for months on a board with little memory. One
    # arena is enough for its few threads.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    # What a large comparison needed goes back to the system.
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "65536")
    os.environ.setdefault("MALLOC_TOP_PAD_", "16384")
    argv = [sys.executable, "-m", "flashback.daemon", str(path)]
    sys.stdout.flush()
    os.execv(sys.executable, argv)  # noqa: S606 - our own interpreter


@click.command("pass")
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.option("-n", "--dry-run", is_flag=True, help="Only list what is due; run and change nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Print the commands that are run (not through a daemon).")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of what became of each job.")
@click.pass_obj
def pass_(path: Path, wait: bool, dry_run: bool, verbose: bool, as_json: bool) -> int:
    """Back up whatever is due, now.

    Exit status: 0 all went well, 1 a job failed, 75 one could not run now.
    """
    loaded = configuration.load(path)
    if dry_run:
        return _list_due(loaded, as_json)
    return _work(loaded, None, wait, _Report(as_json, verbose))


def _list_due(loaded: Config, as_json: bool) -> int:
    from flashback import actions, clock, disk  # noqa: PLC0415 - only what this command needs
    from flashback.status import Board  # noqa: PLC0415

    board = Board(loaded, clock.now)
    actions.refresh(board)
    disk.require(loaded)
    jobs = actions.due(board)
    if as_json:
        _print_json([_result(job.name, JobState.READY.value, "dry run", None) for job in jobs])
        return 0
    for job in jobs:
        print(f"{job.name} is due and was not run: dry run")
    if not jobs:
        print("no job is due")
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.option("-v", "--verbose", is_flag=True, help="Print the commands that are run (not through a daemon).")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of what became of each job.")
@click.pass_obj
def backup(path: Path, target: str, wait: bool, verbose: bool, as_json: bool) -> int:
    """Back up a client now, due or not.

    Or one volume of it, or one job.

    Exit status: 0 all went well, 1 a job failed, 75 one could not run now.
    """
    from flashback import actions  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    actions.select(loaded, target)
    return _work(loaded, target, wait, _Report(as_json, verbose))


class _Warnings(logging.Handler):
    """Holds what the engine warns of until it can be told between two lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._held: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a warning, from any thread."""
        self._held.put(self.format(record))

    def tell(self, result: str = "") -> None:
        """Print what is held to standard error, but not what the line of a result says too."""
        while not self._held.empty():
            line = self._held.get()
            if line.partition(": ")[2] not in result:
                print(line, file=sys.stderr, flush=True)


class _Report:
    """What a person or a program hears of a pass: lines and a bar as it goes, or one list at its end."""

    def __init__(self, as_json: bool, verbose: bool) -> None:
        self.verbose = verbose
        self.meter = console.Meter(moving=not verbose and not as_json)
        self.warnings = _Warnings()
        self._as_json = as_json
        self._results: list[dict[str, Any]] = []

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, *_: object) -> None:
        self.meter.clear()
        self.warnings.tell()
        if self._as_json:
            _print_json(self._results)

    def job(self, line: str, result: dict[str, Any]) -> None:
        """Tell what became of a job."""
        if result["state"] == JobState.BACKING_UP.value:
            return
        self._results.append(result)
        self.meter.clear()
        self.warnings.tell(line)
        if not self._as_json:
            console.say(line)


def _result(job: str, state: str, reason: str, run: dict[str, Any] | None) -> dict[str, Any]:
    return {"job": job, "state": state, "reason": reason, "run": run}


def _print_json(made: Any) -> None:
    import json  # noqa: PLC0415 - only for --json

    print(json.dumps(made, indent=1))


def _work(loaded: Config, target: str | None, wait: bool, report: _Report) -> int:
    """Let the daemon do it when there is one, else do it here."""
    from flashback import control  # noqa: PLC0415 - as above

    events = control.ask(loaded.run_dir, "pass" if target is None else "backup", target, wait)
    with report:
        if events is None:
            return _work_here(loaded, target, wait, report)
        try:
            code, message = _follow(events, report)
        except KeyboardInterrupt:
            code, message = 130, "The engine goes on with it; `flashback stop` stops it"
    if message:
        print(f"flashback: {message}", file=sys.stderr)
    return code


def _follow(events: Iterable[dict[str, Any]], report: _Report) -> tuple[int, str]:
    """Tell what the daemon does until it has ended; return the exit status and its last words."""
    for event in events:
        if event["event"] == "queued":
            report.meter.wait("waiting for the engine ...")
        elif event["event"] == "job":
            result = _result(event["job"], event["state"], event.get("reason", ""), event.get("run"))
            report.job(event["line"], result)
        elif event["event"] == "progress":
            report.meter.advance(event["job"], Progress.of(event))
        elif event["event"] == "end":
            return int(event["exit"]), event["message"]
    return 1, ""


def _work_here(loaded: Config, target: str | None, wait: bool, report: _Report) -> int:
    """Run a pass in this process, as the only engine."""
    from flashback import actions, attempt, clock  # noqa: PLC0415 - only what this command needs
    from flashback.cli.stopping import asked  # noqa: PLC0415
    from flashback.daemon import log_to_stderr, run_lock  # noqa: PLC0415
    from flashback.errors import StoppedError  # noqa: PLC0415
    from flashback.model import ServerState  # noqa: PLC0415
    from flashback.status import Board, run_document  # noqa: PLC0415

    if report.verbose:
        log_to_stderr()
    else:
        logging.getLogger().addHandler(report.warnings)
    stopping = asked()
    report.meter.wait("looking at the disk and the clients ...")

    def pulse() -> None:
        if stopping:
            raise StoppedError
        if board.current:
            report.meter.advance(board.current.job.name, board.current.progress)

    def observe(made: attempt.Attempt) -> None:
        run = run_document(made.run) if made.run else None
        report.job(attempt.describe(made), _result(made.job.name, made.state.value, made.reason, run))

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


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option(
    "--for", "duration", metavar="TIME", default="1h", show_default=True, help="How long the job then rests."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def stop(path: Path, target: str | None, duration: str, as_json: bool) -> int:
    """Stop the running backup and let its job rest.

    What has arrived is kept, and the next backup continues with it.
    """
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
    stopped = []
    for name in hit:
        until = _pause(loaded, name, duration)
        answer = next(iter(control.ask(loaded.run_dir, "stop", name, False) or ()), None)
        if answer is None or answer["exit"] != 0:
            _go_on(loaded, name)
            raise NotNowError(f"{name} cannot be stopped: no daemon runs it", "End the command that does")
        stopped.append(_paused(name, until))
        if not as_json:
            _tell_paused(name, until)
    if as_json:
        _print_json(stopped)
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option(
    "--for", "duration", metavar="TIME", default="12h", show_default=True, help="How long, such as 90m or 2d."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def pause(path: Path, target: str | None, duration: str, as_json: bool) -> int:
    """Begin no backup for some time.

    None of a client, of a volume or of a job; without a name none at all.
    A backup that runs goes on, and `flashback backup` still makes one. `resume` ends the pause early.
    """
    loaded = configuration.load(path)
    if target:
        _known(loaded, target)
    name = (target or "").strip("/")
    until = _pause(loaded, name, duration)
    if as_json:
        _print_json(_paused(name, until))
    else:
        _tell_paused(name, until)
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def resume(path: Path, target: str | None, as_json: bool) -> int:
    """End a pause; name the target that `pause` or `stop` was given."""
    from flashback import clock, disk  # noqa: PLC0415 - only what this command needs
    from flashback import pause as pauses  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    name = (target or "").strip("/")
    ended = _go_on(loaded, name)
    left = pauses.load(loaded.data_dir, clock.now())
    if as_json:
        _print_json({"target": name, "ended": ended, "paused": [_paused(*each) for each in left.items()]})
    elif ended:
        print(f"{name or 'everything'} goes on")
    else:
        held = ", ".join(each or "everything" for each in left) or "nothing"
        print(f"{name or 'everything'} was not paused; paused is {held}")
    return 0


def _pause(loaded: Config, target: str, duration: str) -> datetime:
    """Pause a target and return until when."""
    from flashback import clock, disk  # noqa: PLC0415 - only what these commands need
    from flashback import pause as pauses  # noqa: PLC0415
    from flashback.errors import UsageError  # noqa: PLC0415

    disk.require(loaded)
    try:
        seconds = configuration.seconds(duration)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return pauses.begin(loaded.data_dir, target, seconds, clock.now())


def _go_on(loaded: Config, target: str) -> bool:
    """End the pause of a target; return False when there was none."""
    from flashback import clock  # noqa: PLC0415 - only what these commands need
    from flashback import pause as pauses  # noqa: PLC0415

    return pauses.end(loaded.data_dir, target, clock.now())


def _paused(target: str, until: datetime) -> dict[str, str | None]:
    """Return a pause for programs; the empty target is everything."""
    return {"target": target, "paused_until": iso(until)}


def _tell_paused(target: str, until: datetime) -> None:
    print(f"{target or 'everything'} is paused until {until.astimezone():%Y-%m-%d %H:%M:%S}")


def _known(loaded: Config, target: str) -> None:
    """Refuse a target that names nothing, with the names that there are."""
    from flashback import actions  # noqa: PLC0415 - only what these commands need

    actions.select(loaded, target)
