"""The command line.  Each command is a few lines: parse, ask the daemon or an action, print.

Exit status everywhere: 0 done, 1 failed, 2 wrong usage or configuration, 75 not now
(client away, disk away, clock, another run active).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from flashback import __version__
from flashback import config as configuration
from flashback.errors import ConfigError, FlashbackError, NotNowError
from flashback.model import Config

T = TypeVar("T")


def main() -> None:
    """Run the command line; every error is one line on stderr, never a traceback."""
    try:
        code = cli.main(prog_name="flashback", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FlashbackError as error:
        print(f"flashback: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Somebody read enough (`| head`): nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"flashback: {error}", file=sys.stderr)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    envvar="FLASHBACK_CONFIG",
    default=configuration.DEFAULT_PATH,
    show_default=True,
    help="The configuration file.",
)
@click.version_option(__version__, "--version", message="flashback %(version)s")
@click.pass_context
def cli(context: click.Context, path: Path) -> None:
    """Snapshot backups by rsync, pulled by a small server."""
    context.obj = path


@cli.command()
@click.pass_obj
def run(path: Path) -> None:
    """Run the daemon in the foreground."""
    # A fresh interpreter without this command line: it stays for months on a board with little memory.
    argv = [sys.executable, "-m", "flashback.daemon", str(path)]
    sys.stdout.flush()
    os.execv(sys.executable, argv)  # noqa: S606 - our own interpreter


@cli.command("pass")
@click.option("--wait", is_flag=True, help="Wait for another run instead of exit status 75.")
@click.pass_obj
def pass_(path: Path, wait: bool) -> int:
    """Run every job that is due, now."""
    return _work(configuration.load(path), None, wait)


@cli.command()
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


# --- showing -----------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the status document.")
@click.pass_obj
def status(path: Path, as_json: bool) -> int:
    """Show how things stand. Exit status: 0 well, 1 a problem, 75 the engine does not run."""
    from flashback import clock  # noqa: PLC0415 - only what this command needs
    from flashback import status as document  # noqa: PLC0415

    loaded = configuration.load(path)
    made = document.read(loaded.run_dir)
    health = document.health(made, clock.now(), document.pid_alive)
    if as_json and made is not None:
        print(json.dumps(made, indent=1))
    elif made is not None:
        _print_table(made)
    out = sys.stderr if as_json else sys.stdout
    for problem in health.problems:
        line = f"! {problem}"
        print(click.style(line, fg="red") if out.isatty() else line, file=out)
    if not health.running:
        return NotNowError.exit_code
    return 0 if health.well else 1


def _print_table(made: dict[str, Any]) -> None:
    from flashback.status import spell  # noqa: PLC0415 - only what this command needs

    colours = {"SUCCEEDED": "green", "FAILED": "red", "NOT_FOUND": "yellow", "BACKING_UP": "cyan"}
    disk = made["disk"]
    engine = made["engine"]
    print(f"engine  {engine['state']} since {engine['since']}  {engine['reason']}".rstrip())
    if disk["present"]:
        free, total = disk["free_bytes"] / 1e9, disk["total_bytes"] / 1e9
        print(f"disk    {disk['mount']}  {free:.1f} GB free of {total:.1f} GB")
    else:
        print(f"disk    missing: {disk['reason']}")
    if made["current"]:
        now = made["current"]
        print(f"now     {now['job']}  {now['percent']} %  {now['files']} files  {now['bytes']} bytes")
    width = max((len(job["name"]) for job in made["jobs"]), default=3)
    print(f"\n{'JOB'.ljust(width)}  {'STATE':10}  {'LAST SNAPSHOT':20}  {'AGE':>12}  COUNT")
    for job in made["jobs"]:
        last = job["last_snapshot"]
        age = spell(job["age_seconds"]) if last else "-"
        state = job["state"].ljust(10)
        if sys.stdout.isatty():
            state = click.style(state, fg=colours.get(job["state"]))
        taken = last["taken_at"] if last else "never"
        print(f"{job['name'].ljust(width)}  {state}  {taken:20}  {age:>12}  {job['snapshots']}")


@cli.command()
@click.pass_obj
def queue(path: Path) -> int:
    """Show the table of jobs in the form of 2014."""
    from flashback import clock  # noqa: PLC0415 - only what this command needs
    from flashback import status as document  # noqa: PLC0415

    made = document.read(configuration.load(path).run_dir)
    if made is None:
        raise NotNowError("The engine has not written a status yet", "Start it")
    print("\n".join(document.queue_table(made["jobs"], clock.now())))
    return 0


@cli.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def snapshots(path: Path, target: str | None, as_json: bool) -> int:
    """List the complete snapshots with their paths, oldest first."""
    from flashback import disk, restore  # noqa: PLC0415 - only what this command needs
    from flashback.model import iso  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    found = restore.listing(loaded, target)
    if as_json:
        rows = [
            {"job": job, "name": each.name, "taken_at": iso(each.taken), "path": str(each.path)}
            for job, each in found
        ]
        print(json.dumps(rows, indent=1))
    else:
        for job, each in found:
            print(f"{job}  {each.name}  {each.path}")
    return 0


@cli.command()
@click.argument("target", metavar="HOST/VOLUME[/LABEL]")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option(
    "--to", "to", type=click.Path(path_type=Path), required=True, help="The directory to restore into."
)
@click.option("--snapshot", "name", default="latest", show_default=True, help="The snapshot's name.")
@click.option("--overwrite", is_flag=True, help="Allow a target that is not empty.")
@click.pass_obj
def restore(path: Path, target: str, *, paths: tuple[str, ...], to: Path, name: str, overwrite: bool) -> int:
    """Copy a snapshot, or PATHs of it, into a directory, with owners, modes, times and links."""
    from flashback import restore as action  # noqa: PLC0415 - only what this command needs

    print(action.restore(configuration.load(path), target, paths, to, name=name, overwrite=overwrite))
    return 0


@cli.group("disk")
def disk_group() -> None:
    """Look after the backup disk."""


@disk_group.command("mark")
@click.argument("mount", type=click.Path(path_type=Path))
def disk_mark(mount: Path) -> int:
    """Mark the disk that is mounted on MOUNT as the backup disk; print its id."""
    from flashback import disk  # noqa: PLC0415 - only what this command needs

    print(disk.mark(mount))
    return 0


@cli.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def config_check(path: Path, file: Path | None) -> int:
    """List every mistake in the configuration, one per line."""
    try:
        loaded = configuration.load(file or path)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return error.exit_code
    print(f"{loaded.path}: good, {len(loaded.jobs)} jobs")
    return 0


@cli.command()
@click.option("--green", help="The green LED below /sys/class/leds, as a glob.")
@click.option("--red", help="The red LED below /sys/class/leds, as a glob.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/sys/class/leds"), show_default=True)
@click.option("--show", is_flag=True, help="Print what is shown now, in words, and end.")
@click.pass_obj
def led(path: Path, green: str | None, red: str | None, root: Path, show: bool) -> int:
    """Show the engine's state on a green and a red LED."""
    from flashback import led as sign  # noqa: PLC0415 - only what this command needs

    loaded = configuration.load(path)
    leds = sign.Leds(root, green or loaded.led_green, red or loaded.led_red)
    if show:
        print(sign.show(loaded.run_dir, leds))
        return 0
    return sign.run(loaded.run_dir, leds)


if __name__ == "__main__":
    main()
