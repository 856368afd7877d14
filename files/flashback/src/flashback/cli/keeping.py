"""Commands about what is kept: marks, snapshots held back, the rules explained, when the disk is full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashback import config as configuration
from flashback.cli.completing import targets
from flashback.errors import UsageError
from flashback.model import Config, Job, snapshot_name, snapshot_time

if TYPE_CHECKING:
    from flashback.store import Store


@click.command()
@click.argument("snapshot", metavar="HOST/VOLUME/LABEL/SNAPSHOT")
@click.argument("note", default="")
@click.pass_obj
def keep(path: Path, snapshot: str, note: str) -> int:
    """Mark a snapshot so that it never expires, with a NOTE that says why."""
    job, taken = _named(snapshot)
    with _store(configuration.load(path)) as store:
        store.note(job, taken, note)
    print(f"{snapshot} is kept until `flashback unkeep` takes the mark away")
    return 0


@click.command()
@click.argument("snapshot", metavar="HOST/VOLUME/LABEL/SNAPSHOT")
@click.pass_obj
def unkeep(path: Path, snapshot: str) -> int:
    """Take the mark off a snapshot: it expires like all others."""
    job, taken = _named(snapshot)
    with _store(configuration.load(path)) as store:
        if taken not in store.notes(job):
            raise UsageError(f"{snapshot} is not marked", f"`flashback retention {job.name}` shows the marks")
        store.note(job, taken, None)
    print(f"{snapshot} expires like all others")
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.pass_obj
def accept(path: Path, target: str) -> int:
    """Let a snapshot that was held back count: its changes are wanted."""
    from flashback.process import no_pulse  # noqa: PLC0415 - only what this command needs

    loaded = configuration.load(path)
    with _store(loaded) as store:
        for job in _held_back(store, loaded, target):
            for suspect in store.suspects(job):
                print(f"{store.accept(job, suspect, no_pulse).path} counts from now on")
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.pass_obj
def reject(path: Path, target: str) -> int:
    """Delete a snapshot that was held back: its changes are damage."""
    from flashback.process import no_pulse  # noqa: PLC0415 - only what this command needs

    loaded = configuration.load(path)
    with _store(loaded) as store:
        for job in _held_back(store, loaded, target):
            for suspect in store.suspects(job):
                store.reject(job, suspect, no_pulse)
                print(f"{suspect.path} is deleted")
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", required=False, shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def retention(path: Path, target: str | None, as_json: bool) -> int:
    """Explain for each snapshot why it is kept, or that it goes after the next backup."""
    from flashback import care, clock, disk, picking  # noqa: PLC0415 - only what this command needs
    from flashback import retention as rules  # noqa: PLC0415
    from flashback.store import open_store  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    store, proven = open_store(loaded.data_dir), care.load(loaded.data_dir).proven
    configured = {job.name: job for job in loaded.jobs}
    rows = []
    for stored in picking.stored_jobs(loaded, target):
        job, notes = configured.get(stored.name, stored), store.notes(stored)
        for taken, reasons in rules.explain(
            [each.taken for each in store.snapshots(job)],
            job.keep,
            marked=notes,
            proven=proven.get(job.name),
            zone=clock.zone(),
        ):
            words = list(reasons) + ([f"note: {notes[taken]}"] if notes.get(taken) else [])
            if job.name not in configured:
                words.insert(0, "its job is no longer configured, so nothing of it expires")
            rows.append({"job": job.name, "snapshot": snapshot_name(taken), "kept": words})
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            because = "; ".join(row["kept"]) or "nothing keeps it: it goes after the next backup"
            print(f"{row['job']}  {row['snapshot']}  {because}")
    return 0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def forecast(path: Path, as_json: bool) -> int:
    """Say when the backup disk will be full."""
    from flashback import care, clock, disk  # noqa: PLC0415 - only what this command needs
    from flashback import forecast as future  # noqa: PLC0415
    from flashback.history import History  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    samples = History(loaded.data_dir).disk_use(clock.now() - care.WEEKS)
    words = future.sentence(samples, loaded.reserve_percent)
    if as_json:
        days = future.days_left(samples, loaded.reserve_percent)
        print(json.dumps({"days_left": days, "samples": len(samples), "sentence": words}, indent=1))
    else:
        print(words)
    return 0


def _named(snapshot: str) -> tuple[Job, datetime]:
    parts = snapshot.strip("/").split("/")
    taken = snapshot_time(parts[-1])
    if len(parts) != 4 or taken is None:
        raise UsageError(f"{snapshot} names no snapshot", "Wanted is HOST/VOLUME/LABEL/2026-11-23T030000Z")
    host, volume, label, _ = parts
    return Job(host, volume, label, source="/", addresses=()), taken


@contextmanager
def _store(loaded: Config) -> Iterator[Store]:
    """Open the store while no run works on the disk."""
    from flashback import disk  # noqa: PLC0415 - only what these commands need
    from flashback.store import open_store  # noqa: PLC0415

    with disk.locked(loaded):
        yield open_store(loaded.data_dir)


def _held_back(store: Store, loaded: Config, target: str) -> list[Job]:
    from flashback import picking  # noqa: PLC0415 - only what these commands need

    jobs = [job for job in picking.stored_jobs(loaded, target) if store.suspects(job)]
    if not jobs:
        raise UsageError(f"Nothing of {target} is held back", "`flashback status` shows what is")
    return jobs
