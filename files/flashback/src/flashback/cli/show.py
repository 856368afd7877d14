"""Commands that only look: how things stand and what is on the disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from flashback import config as configuration
from flashback.cli.completing import targets
from flashback.errors import NotNowError


@click.command()
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
    from flashback.schedule import spell  # noqa: PLC0415 - only what this command needs

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


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the jobs of the status document.")
@click.pass_obj
def queue(path: Path, as_json: bool) -> int:
    """Show the table of jobs in the form of 2014."""
    from flashback import clock  # noqa: PLC0415 - only what this command needs
    from flashback import status as document  # noqa: PLC0415

    made = document.read(configuration.load(path).run_dir)
    if made is None:
        raise NotNowError("The engine has not written a status yet", "Start it")
    table = document.queue_table(made["jobs"], clock.now())
    print(json.dumps(made["jobs"], indent=1) if as_json else "\n".join(table))
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def snapshots(path: Path, target: str | None, as_json: bool) -> int:
    """List the complete snapshots with their paths, oldest first."""
    from flashback import disk, picking  # noqa: PLC0415 - only what this command needs
    from flashback.model import iso  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    found = picking.listing(loaded, target)
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


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.option("--no-probe", is_flag=True, help="Do not look for the client.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def why(path: Path, target: str, no_probe: bool, as_json: bool) -> int:
    """Explain why a job does or does not run now. Exit status: 0 it runs, 75 it does not."""
    from dataclasses import asdict  # noqa: PLC0415 - only what this command needs

    from flashback import clock  # noqa: PLC0415
    from flashback import why as reasons  # noqa: PLC0415
    from flashback.status import Board  # noqa: PLC0415

    board = Board(configuration.load(path), clock.now)
    answers = reasons.explain(board, target, not no_probe)
    if as_json:
        print(json.dumps([asdict(each) for each in answers], indent=1))
    else:
        for each in answers:
            print(f"{each.job}: {each.verdict}" if each.runs else f"{each.job} does not run: {each.verdict}")
            for reason in each.reasons:
                print(f"  - {reason}")
    return 0 if any(each.runs for each in answers) else NotNowError.exit_code


@click.command()
@click.argument("target", metavar="[HOST/VOLUME/LABEL]", required=False, shell_complete=targets)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def history(path: Path, target: str | None, limit: int, as_json: bool) -> int:
    """List the last runs, the newest first."""
    from flashback import disk  # noqa: PLC0415 - only what this command needs
    from flashback.history import History  # noqa: PLC0415
    from flashback.schedule import spell  # noqa: PLC0415
    from flashback.status import run_document  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    runs = History(loaded.data_dir).runs(target, limit)
    if as_json:
        print(json.dumps([{"job": run.job, **run_document(run)} for run in runs], indent=1))
        return 0
    for run in runs:
        ended = run.finished_at.astimezone()
        words = f"{run.files} files, {run.bytes_transferred} bytes received" if run.files else ""
        line = f"{ended:%Y-%m-%d %H:%M:%S}  {run.job}  {run.outcome.value}  {spell(run.duration)}"
        print("  ".join(part for part in (line, words, run.reason) if part))
    return 0
