"""Commands that only look: how things stand and what is on the disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashback import config as configuration
from flashback.cli import console
from flashback.cli.completing import targets
from flashback.errors import NotNowError
from flashback.model import Progress, Run

if TYPE_CHECKING:
    from flashback.why import Answer


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the status document.")
@click.pass_obj
def status(path: Path, as_json: bool) -> int:
    """Show the engine, the disk, all jobs and every problem.

    Exit status: 0 all is well, 1 something needs you, 75 the engine does not run.
    """
    from flashback import clock  # noqa: PLC0415 - only what this command needs
    from flashback import status as document  # noqa: PLC0415

    loaded = configuration.load(path)
    made = document.read(loaded.run_dir)
    health = document.health(made, clock.now(), document.pid_alive)
    if as_json and made is not None:
        print(json.dumps(made, indent=1))
    elif made is not None:
        _print_server(made)
        _print_jobs(made["jobs"])
    for problem in health.problems:
        if as_json:
            print(f"! {problem}", file=sys.stderr)
        else:
            console.say(f"! {problem}", "red")
    if not health.running:
        return NotNowError.exit_code
    return 0 if health.well else 1


def _print_server(made: dict[str, Any]) -> None:
    disk, engine, now = made["disk"], made["engine"], made["current"]
    console.say(f"engine  {engine['state']} since {engine['since']}  {engine['reason']}".rstrip())
    if disk["present"]:
        free, total = disk["free_bytes"] / 1e9, disk["total_bytes"] / 1e9
        console.say(f"disk    {disk['mount']}  {free:.1f} GB free of {total:.1f} GB")
    else:
        console.say(f"disk    missing: {disk['reason']}")
    if now and console.on_terminal():
        done = Progress.of(now)
        console.say(f"now     {now['job']}  {'  '.join([f'{done.percent} %', *console.told(done)])}")
    elif now:
        console.say(f"now     {now['job']}  {now['percent']} %  {now['files']} files  {now['bytes']} bytes")
    print()


def _print_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    from flashback.schedule import spell  # noqa: PLC0415 - only what this command needs

    head = ("JOB", "STATE", "LAST SNAPSHOT", "AGE", "COUNT")
    rows = [
        (
            job["name"],
            job["state"],
            job["last_snapshot"]["taken_at"] if job["last_snapshot"] else "never",
            spell(job["age_seconds"]) if job["last_snapshot"] else "-",
            str(job["snapshots"]),
        )
        for job in jobs
    ]
    width = max((len(name) for name, *_ in rows), default=3)
    plain = [
        f"{name.ljust(width)}  {state:10}  {taken:20}  {age:>12}  {count}"
        for name, state, taken, age, count in (head, *rows)
    ]
    console.table(head, rows, plain, state="STATE", right=("AGE", "COUNT"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the jobs of the status document.")
@click.pass_obj
def queue(path: Path, as_json: bool) -> int:
    """Show the jobs in the form of 2014.

    The most urgent first; AGE and CYCLE are in seconds.
    """
    from flashback import clock  # noqa: PLC0415 - only what this command needs
    from flashback import status as document  # noqa: PLC0415

    made = document.read(configuration.load(path).run_dir)
    if made is None:
        raise NotNowError("The engine has not written a status yet", "Start it")
    if as_json:
        print(json.dumps(made["jobs"], indent=1))
        return 0
    now = clock.now()
    head, *rows = document.queue_rows(made["jobs"], now)
    console.table(head, rows, document.queue_table(made["jobs"], now), state="STATUS", right=("AGE/CYCLE",))
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def snapshots(path: Path, target: str | None, as_json: bool) -> int:
    """List the complete snapshots, oldest first.

    With the folder of each: a snapshot is a plain tree, out of which files may be copied.
    """
    from flashback import clock, disk, picking  # noqa: PLC0415 - only what this command needs
    from flashback.model import iso  # noqa: PLC0415
    from flashback.schedule import plain  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    found = picking.listing(loaded, target)
    if as_json:
        made = [
            {"job": job, "name": each.name, "taken_at": iso(each.taken), "path": str(each.path)}
            for job, each in found
        ]
        print(json.dumps(made, indent=1))
        return 0
    now = clock.now()
    rows = [(job, each.name, plain(int((now - each.taken).total_seconds()))) for job, each in found]
    lines = (f"{job}  {each.name}  {each.path}" for job, each in found)
    console.table(("JOB", "SNAPSHOT", "AGE"), rows, lines, right=("AGE",), empty="There is no snapshot yet.")
    if found and console.on_terminal():
        console.say("")
        console.say(f"Each is a folder: {loaded.data_dir}/JOB/SNAPSHOT")
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.option("--no-probe", is_flag=True, help="Do not look for the client.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def why(path: Path, target: str, no_probe: bool, as_json: bool) -> int:
    """Explain why a job does or does not run now.

    Exit status: 0 it runs, 75 it does not.
    """
    from dataclasses import asdict  # noqa: PLC0415 - only what this command needs

    from flashback import clock  # noqa: PLC0415
    from flashback import why as reasons  # noqa: PLC0415
    from flashback.status import Board  # noqa: PLC0415

    board = Board(configuration.load(path), clock.now)
    answers = reasons.explain(board, target, not no_probe)
    if as_json:
        print(json.dumps([asdict(each) for each in answers], indent=1))
    else:
        rows = [
            (
                each.job,
                "yes" if each.runs else "no",
                "\n".join([each.verdict, *(f"- {reason}" for reason in each.reasons)]),
            )
            for each in answers
        ]
        console.table(("JOB", "RUNS", "WHY"), rows, _told(answers), state="RUNS")
    return 0 if any(each.runs for each in answers) else NotNowError.exit_code


def _told(answers: Sequence[Answer]) -> Iterator[str]:
    for each in answers:
        yield f"{each.job}: {each.verdict}" if each.runs else f"{each.job} does not run: {each.verdict}"
        for reason in each.reasons:
            yield f"  - {reason}"


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def history(path: Path, target: str | None, limit: int, as_json: bool) -> int:
    """List the last backups, the newest first.

    With what became of each, how long it took and what it brought.
    """
    from flashback import actions, disk  # noqa: PLC0415 - only what this command needs
    from flashback.history import History  # noqa: PLC0415
    from flashback.schedule import spell  # noqa: PLC0415
    from flashback.status import run_document  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    runs = History(loaded.data_dir).runs(target, limit)
    if target and not runs:
        actions.known(loaded, target)
    if as_json:
        print(json.dumps([{"job": run.job, **run_document(run)} for run in runs], indent=1))
        return 0
    head = ("ENDED", "JOB", "OUTCOME", "TOOK", "ABOUT")
    rows = [
        (f"{_ended(run):%Y-%m-%d %H:%M}", run.job, run.outcome.value, spell(run.duration), _about(run))
        for run in runs
    ]
    lines = map(_line, runs)
    console.table(head, rows, lines, state="OUTCOME", right=("TOOK",), empty="No backup has run yet.")
    return 0


def _ended(run: Run) -> datetime:
    return run.finished_at.astimezone()


def _about(run: Run) -> str:
    """Return for a person what a run brought, and its reason."""
    received = f"{run.files} files, {console.amount(run.bytes_transferred)} received" if run.files else ""
    return "; ".join(filter(None, (received, run.reason)))


def _line(run: Run) -> str:
    """Return a run on one line; what is not known of it is left out."""
    from flashback.schedule import spell  # noqa: PLC0415 - as above

    words = f"{run.files} files, {run.bytes_transferred} bytes received" if run.files else ""
    line = f"{_ended(run):%Y-%m-%d %H:%M:%S}  {run.job}  {run.outcome.value}  {spell(run.duration)}"
    return "  ".join(part for part in (line, words, run.reason) if part)
