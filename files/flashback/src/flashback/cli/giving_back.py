"""Commands that give files back: restore, find, diff."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashback import config as configuration
from flashback.cli.completing import targets
from flashback.errors import UsageError
from flashback.model import Config, Progress

if TYPE_CHECKING:
    from flashback.model import Snapshot
    from flashback.picking import Chosen
    from flashback.restore import Outcome

# Seconds between two lines of progress where there is no terminal.
SELDOM = 10.0
# Faults that are printed one by one.
SHOWN = 20


@click.command()
@click.argument("target", metavar="HOST/VOLUME[/LABEL]", shell_complete=targets)
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option(
    "--to", metavar="DIR", help="Restore into this directory; with --as into this file, - is standard output."
)
@click.option("--to-client", is_flag=True, help="Restore to the client, into the folder it came from.")
@click.option(
    "--to-host", metavar="NAME|USER@HOST:DIR", help="Restore to another client, or to any machine by ssh."
)
@click.option("--into", metavar="DIR", help="The folder there, instead of the original one.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port of ssh there.")
@click.option("--as", "form", type=click.Choice(["files", "tar", "zip"]), default="files", show_default=True)
@click.option(
    "--snapshot",
    "name",
    default="latest",
    show_default=True,
    help="Its name, a day such as 2026-11-01, or 'before 2026-11-01'.",
)
@click.option(
    "--overwrite", is_flag=True, help="Allow a directory that is not empty; replace files that are there."
)
@click.option(
    "--checksum", is_flag=True, help="Compare files that are there by content, not by size and time."
)
@click.option(
    "--check/--no-check",
    default=None,
    help="Compare what was restored with the checksums of the backup. [default: for small restores]",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only list what would be restored.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def restore(path: Path, /, target: str, **given: Any) -> int:
    """Copy a snapshot, or PATHs of it, somewhere, with owners, modes, times and links.

    Exit status: 1 when something is damaged, missing or different.
    """
    from flashback import picking  # noqa: PLC0415 - only this command needs it

    _agree(given)
    loaded = configuration.load(path)
    chosen = picking.choose(loaded, target, given["paths"], given["name"])
    made = _copy(loaded, target, chosen, given) if given["form"] == "files" else _pack(loaded, chosen, given)
    # An archive on standard output leaves no room for words there.
    said = sys.stderr if given["to"] == "-" else sys.stdout
    print(json.dumps(asdict(made)) if given["as_json"] else made.sentence, file=said)
    if not given["as_json"]:
        _tell(made.notes, made.faults)
    return 1 if made.faults else 0


def _agree(given: dict[str, Any]) -> None:
    """Refuse options that do not fit together."""
    if sum((given["to"] is not None, given["to_client"], given["to_host"] is not None)) != 1:
        raise UsageError("Where to restore to is not clear", "Give one of --to, --to-client and --to-host")
    here, packed = given["to"] is not None, given["form"] != "files"
    wrong = [
        ("--into and --port", here and bool(given["into"] or given["port"]), "another machine"),
        ("--as", packed and not here, "--to"),
        (
            "--dry-run, --checksum and --check",
            packed and bool(given["dry_run"] or given["checksum"] or given["check"]),
            "files",
        ),
        ("--to -", given["to"] == "-" and not packed, "--as tar or --as zip"),
    ]
    for option, amiss, only in wrong:
        if amiss:
            raise UsageError(f"{option} can be used only with {only}")
    if given["into"] and not given["into"].startswith("/"):
        raise UsageError(f"{given['into']} is no absolute path", "Begin it with a slash")


def _copy(loaded: Config, target: str, chosen: Chosen, given: dict[str, Any]) -> Outcome:
    from flashback import restore as action  # noqa: PLC0415 - only this command needs it

    options = action.Options(
        overwrite=given["overwrite"],
        checksum=given["checksum"],
        dry_run=given["dry_run"],
        check=given["check"],
        on_progress=_progress(),
        on_entry=None if given["as_json"] else print,
    )
    if given["to"] is not None:
        return action.restore(loaded, chosen, Path(given["to"]), options)
    job, folder = action.machine(loaded, given["to_host"] or target.strip("/").split("/")[0], given["port"])
    folder = given["into"] or folder or action.origin(loaded, target)
    return action.send(loaded, chosen, job, folder, options)


def _pack(loaded: Config, chosen: Chosen, given: dict[str, Any]) -> Outcome:
    from flashback import archive, picking  # noqa: PLC0415 - only this command needs it
    from flashback import restore as action  # noqa: PLC0415
    from flashback.gauge import Gauge  # noqa: PLC0415

    form, place = given["form"], Path(given["to"])
    to_pipe = given["to"] == "-"
    if to_pipe and sys.stdout.isatty():
        raise UsageError("An archive is not for a terminal", f"Write it to a pipe, or to FILE.{form}")
    if not to_pipe:
        action.refuse_backup_disk(loaded, place.parent)
        archive.refuse(place, overwrite=given["overwrite"])
    gauge = Gauge(_progress(), picking.size(loaded, chosen))
    pack = archive.tar if form == "tar" else archive.zip_
    with nullcontext(sys.stdout.buffer) if to_pipe else archive.fresh(place) as file:
        notes = pack(chosen, file, gauge)
    return action.Outcome(
        str(chosen.snapshot.path),
        "standard output" if to_pipe else str(place),
        gauge.files,
        gauge.bytes,
        gauge.files,
        gauge.bytes,
        notes=(*chosen.notes, *notes),
        faults=chosen.faults,
    )


def _tell(notes: Sequence[str], faults: Sequence[str]) -> None:
    for each in (*notes, *faults[:SHOWN]):
        print(f"! {each}", file=sys.stderr)
    if len(faults) > SHOWN:
        print(f"! and {len(faults) - SHOWN} more; --json names them", file=sys.stderr)


def _progress() -> Callable[[Progress], None]:
    """Return what shows the progress: a line that changes on a terminal, a new one now and then elsewhere."""
    terminal, said = sys.stderr.isatty(), time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal said
        if not terminal and time.monotonic() - said < SELDOM:
            return
        said = time.monotonic()
        parts = [f"{progress.percent:3} %"] if progress.percent else []
        parts += [
            f"{progress.files} files",
            f"{progress.bytes / 1e6:.1f} MB",
            f"{progress.rate / 1e6:.1f} MB/s",
        ]
        if progress.seconds_left is not None:
            minutes, seconds = divmod(progress.seconds_left, 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        begin, end = ("\r\033[K", "\r") if terminal else ("", "\n")
        print(begin + "  ".join(parts), end=end, file=sys.stderr, flush=True)

    return show


@click.command()
@click.argument("pattern")
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False, shell_complete=targets)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def find(path: Path, pattern: str, target: str | None, as_json: bool) -> int:
    """List every version of every file that matches. Exit status: 1 when there is none.

    PATTERN is part of a name, part of a path when it has a slash, or a shell pattern for either.
    """
    from flashback import disk  # noqa: PLC0415 - only this command needs it
    from flashback import find as action  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    anything = False
    for each in action.versions(loaded, pattern, target):
        anything = True
        if as_json:
            print(json.dumps(asdict(each)))
        else:
            held = f"{each.first}..{each.last}"
            print(f"{_moment(each.mtime_ns)}  {each.size:>12}  {held}  {_shown(each.place)}")
    return 0 if anything else 1


def _moment(mtime_ns: int) -> str:
    """Return a file's time by the wall clock; some bear times that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(mtime_ns // 1_000_000_000).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"@{mtime_ns // 1_000_000_000}".ljust(19)


@click.command()
@click.argument("old", metavar="HOST/VOLUME[/LABEL[/SNAPSHOT]]", shell_complete=targets)
@click.argument("new", metavar="[HOST/VOLUME/LABEL/SNAPSHOT]", required=False)
@click.option("--from", "one", metavar="SNAPSHOT", help="The older one: a name, a day, 'before 2026-11-01'.")
@click.option("--to", "other", metavar="SNAPSHOT", help="The newer one. [default: the newest]")
@click.option("--content", is_flag=True, help="Compare the bytes of files whose size is the same.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, the totals last.")
@click.pass_obj
def diff(path: Path, /, old: str, new: str | None, **given: Any) -> int:
    """Say what differs between two snapshots, or between the two newest."""
    from flashback import diff as action  # noqa: PLC0415 - only this command needs it
    from flashback import disk  # noqa: PLC0415

    loaded, as_json = configuration.load(path), given["as_json"]
    disk.require(loaded)
    one, other = _two(loaded, old, new, given["one"], given["other"])
    totals: dict[str, dict[str, int]] = {}
    for each in action.differences(one.path, other.path, content=given["content"]):
        kind = totals.setdefault(each.kind, {"entries": 0, "bytes": 0})
        kind["entries"] += 1
        kind["bytes"] += each.size
        if as_json:
            print(json.dumps(asdict(each)))
        else:
            origin = f"{_shown(each.origin)} -> " if each.origin else ""
            print(f"{each.what:16} {each.size:>12}  {origin}{_shown(each.path)}")
    if as_json:
        print(json.dumps({"old": str(one.path), "new": str(other.path), "totals": totals}))
        return 0
    counts = [f"{each['entries']} {kind} ({each['bytes']} bytes)" for kind, each in sorted(totals.items())]
    print(f"{one.name} -> {other.name}: {', '.join(counts) or 'nothing differs'}")
    return 0


def _two(
    loaded: Config, old: str, new: str | None, one: str | None, other: str | None
) -> tuple[Snapshot, Snapshot]:
    """Return the two snapshots that are meant, the older one first."""
    from flashback import picking  # noqa: PLC0415 - only this command needs it

    if new is not None:
        if one or other:
            raise UsageError(
                "--from and --to are for one HOST/VOLUME[/LABEL]", "Leave them or the second out"
            )
        return _one(loaded, old), _one(loaded, new)
    if old.strip("/").count("/") not in (1, 2):
        raise UsageError(f"{old} names no volume and no label", "Name HOST/VOLUME[/LABEL], or two snapshots")
    last = picking.pick(loaded, old, other or "latest")
    if one:
        return picking.pick(loaded, old, one), last
    earlier = sorted(each for _, each in picking.listing(loaded, old) if each.taken < last.taken)
    if not earlier:
        raise UsageError(f"{old} has only one snapshot", "There is nothing to compare it with")
    return earlier[-1], last


def _one(loaded: Config, name: str) -> Snapshot:
    from flashback import picking  # noqa: PLC0415 - only this command needs it

    label, _, snapshot = name.strip("/").rpartition("/")
    if label.count("/") != 2:
        raise UsageError(f"{name} names no snapshot", "Wanted is HOST/VOLUME/LABEL/2026-11-23T030000Z")
    return picking.pick(loaded, label, snapshot)


def _shown(path: str) -> str:
    """Return a path on one line, whatever bytes are in its name."""
    from flashback.picking import shown  # noqa: PLC0415 - as above

    return shown(path.encode("utf-8", "surrogateescape"))
