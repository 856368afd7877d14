"""Commands about what is kept: marks, snapshots held back, the rules explained, when the disk is full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashback import config as configuration
from flashback.cli import console
from flashback.cli.completing import targets
from flashback.errors import UsageError
from flashback.model import Config, Job, snapshot_name, snapshot_time

if TYPE_CHECKING:
    from flashback.store import Store


@click.command()
@click.argument("snapshot", metavar="HOST/VOLUME/LABEL/SNAPSHOT")
@click.argument("note", default="")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def keep(path: Path, snapshot: str, note: str, as_json: bool) -> int:
    """Mark a snapshot so that it never expires.

    NOTE says why, for whoever reads `flashback retention` later.
    """
    job, taken = _named(snapshot)
    with _store(configuration.load(path)) as store:
        store.note(job, taken, note)
    if as_json:
        print(json.dumps(_mark(job, taken, note), indent=1))
    else:
        print(f"{snapshot} is kept until `flashback unkeep` takes the mark away")
    return 0


@click.command()
@click.argument("snapshot", metavar="HOST/VOLUME/LABEL/SNAPSHOT")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def unkeep(path: Path, snapshot: str, as_json: bool) -> int:
    """Take the mark off: the snapshot may expire."""
    job, taken = _named(snapshot)
    with _store(configuration.load(path)) as store:
        if taken not in store.notes(job):
            raise UsageError(f"{snapshot} is not marked", f"`flashback retention {job.name}` shows the marks")
        store.note(job, taken, None)
    if as_json:
        print(json.dumps(_mark(job, taken, None), indent=1))
    else:
        print(f"{snapshot} expires like all others")
    return 0


def _mark(job: Job, taken: datetime, note: str | None) -> dict[str, Any]:
    """Return for programs whether a snapshot is marked; the note is None when it is not."""
    return {"job": job.name, "snapshot": snapshot_name(taken), "marked": note is not None, "note": note}


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the snapshots that count now.")
@click.pass_obj
def accept(path: Path, target: str, as_json: bool) -> int:
    """Let a held back snapshot count.

    It was held back because it lost or altered very much; its changes are wanted.
    """
    from flashback.process import no_pulse  # noqa: PLC0415 - only what this command needs

    loaded, made = configuration.load(path), []
    with _store(loaded) as store:
        for job in _held_back(store, loaded, target):
            for suspect in store.suspects(job):
                snapshot = store.accept(job, suspect, no_pulse)
                made.append({"job": job.name, "name": snapshot.name, "path": str(snapshot.path)})
                if not as_json:
                    print(f"{snapshot.path} counts from now on")
    if as_json:
        print(json.dumps(made, indent=1))
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME[/LABEL]]", shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of what was deleted.")
@click.pass_obj
def reject(path: Path, target: str, as_json: bool) -> int:
    """Delete a held back snapshot.

    It was held back because it lost or altered very much; its changes are damage.
    """
    from flashback.process import no_pulse  # noqa: PLC0415 - only what this command needs

    loaded, made = configuration.load(path), []
    with _store(loaded) as store:
        for job in _held_back(store, loaded, target):
            for suspect in store.suspects(job):
                store.reject(job, suspect, no_pulse)
                made.append({"job": job.name, "name": suspect.name, "path": str(suspect.path)})
                if not as_json:
                    print(f"{suspect.path} is deleted")
    if as_json:
        print(json.dumps(made, indent=1))
    return 0


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def retention(path: Path, target: str | None, as_json: bool) -> int:
    """Explain why each snapshot is kept, or that it goes.

    What no rule keeps is deleted after the next backup of its job.
    """
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
        return 0
    nothing = "nothing keeps it: it goes after the next backup"
    cells = [(str(row["job"]), str(row["snapshot"]), "; ".join(row["kept"]) or nothing) for row in rows]
    head, lines = ("JOB", "SNAPSHOT", "KEPT BECAUSE"), ("  ".join(row) for row in cells)
    console.table(head, cells, lines, empty="There is no snapshot yet.")
    return 0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def forecast(path: Path, as_json: bool) -> int:
    """Say when the backup disk will be full.

    Told from how full it was in the last 60 days; in brackets what the faster and the slower days point to.
    """
    from flashback import care, clock, disk  # noqa: PLC0415 - only what this command needs
    from flashback import forecast as future  # noqa: PLC0415
    from flashback.history import History  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    samples = History(loaded.data_dir).disk_use(clock.now() - care.WEEKS)
    words = future.sentence(samples, loaded.reserve_percent)
    if as_json:
        left = future.days_left(samples, loaded.reserve_percent)
        print(json.dumps({**asdict(left), "samples": len(samples), "sentence": words}, indent=1))
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
