"""Commands that give files back: restore, find, diff."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from flashback import config as configuration
from flashback.errors import UsageError
from flashback.model import Config, Progress

if TYPE_CHECKING:
    from flashback.model import Snapshot


@click.command()
@click.argument("target", metavar="HOST/VOLUME[/LABEL]")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option(
    "--to", metavar="DIR", help="Restore into this directory; with --as into this file, - is standard output."
)
@click.option(
    "--to-client",
    metavar="[HOST]",
    is_flag=False,
    flag_value="",
    help="Restore to the client, or to another one.",
)
@click.option("--into", metavar="DIR", help="With --to-client: another folder there than the original one.")
@click.option("--as", "form", type=click.Choice(["files", "tar", "zip"]), default="files", show_default=True)
@click.option(
    "--snapshot", "name", default="latest", show_default=True, help="Its name, or 'before 2026-11-01'."
)
@click.option("--overwrite", is_flag=True, help="Allow a target that is not empty.")
@click.option("-n", "--dry-run", is_flag=True, help="Only count what would be restored.")
@click.pass_obj
def restore(path: Path, /, target: str, **given: Any) -> int:
    """Copy a snapshot, or PATHs of it, somewhere, with owners, modes, times and links."""
    from flashback import restore as action  # noqa: PLC0415 - only this command needs it

    loaded, paths = configuration.load(path), given["paths"]
    if (given["to"] is None) == (given["to_client"] is None):
        raise UsageError("Where to restore to is not clear", "Give --to DIR or --to-client, one of them")
    common = {"name": given["name"], "dry_run": given["dry_run"], "on_progress": _progress()}
    if given["to_client"] is not None:
        machine = given["to_client"] or target.strip("/").split("/")[0]
        print(action.send(loaded, target, paths, machine, into=given["into"], **common))
    elif given["form"] != "files":
        return _pack(loaded, target, given)
    else:
        print(
            action.restore(loaded, target, paths, Path(given["to"]), overwrite=given["overwrite"], **common)
        )
    return 0


def _progress() -> Any:
    """Return what shows the progress, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def show(progress: Progress) -> None:
        left = "" if progress.seconds_left is None else f"  {progress.seconds_left} s left"
        rate = progress.rate / 1e6
        print(
            f"\r\033[K{progress.percent:3} %  {progress.bytes} bytes  {rate:.1f} MB/s{left}\r",
            end="",
            file=sys.stderr,
        )

    return show


def _pack(loaded: Config, target: str, given: dict[str, Any]) -> int:
    from flashback import restore as action  # noqa: PLC0415 - only this command needs it

    if given["dry_run"]:
        raise UsageError("--dry-run goes with files only", "Leave --as or --dry-run out")
    snapshot, sources = action.chosen(loaded, target, given["paths"], given["name"])
    if given["to"] == "-":
        return _write(snapshot, sources, given["form"], sys.stdout.buffer, "standard output")
    place = Path(given["to"])
    _check_file(loaded, place, given["overwrite"])
    fresh = place.with_name(f".{place.name}.unfinished")
    try:
        with fresh.open("xb") as file:
            status = _write(snapshot, sources, given["form"], file, str(place))
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)
    return status


def _check_file(loaded: Config, place: Path, overwrite: bool) -> None:
    """Refuse to write an archive over what is no plain file, or onto the backup disk."""
    if place.parent.resolve().is_relative_to(loaded.data_dir.resolve()):
        raise UsageError(f"{place} is on the backup disk", "Name a file on another disk")
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent} is not a directory", "Make it, or name another file")
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise UsageError(f"{place} is no plain file", "Name another one")
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists already", "Name another file, or use --overwrite")


def _write(snapshot: Snapshot, sources: list[str], form: str, file: BinaryIO, place: str) -> int:
    from flashback import archive  # noqa: PLC0415 - only this command needs it

    lost: list[str] = []
    if form == "tar":
        archive.tar(snapshot.path, sources, file)
    else:
        lost = archive.zip_(snapshot.path, sources, file)
    for name in lost:
        print(f"! zip cannot keep the device {name}", file=sys.stderr)
    print(f"{snapshot.path} is packed into {place}", file=sys.stderr)
    return 0


@click.command()
@click.argument("pattern")
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def find(path: Path, pattern: str, target: str | None, as_json: bool) -> int:
    """List every version of every file that matches. Exit status: 1 when there is none."""
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
            changed = datetime.fromtimestamp(each.mtime_ns / 1e9).astimezone()
            held = f"{each.first}..{each.last}"
            print(f"{changed:%Y-%m-%d %H:%M:%S}  {each.size:>12}  {held}  {_shown(each.place)}")
    return 0 if anything else 1


@click.command()
@click.argument("old", metavar="HOST/VOLUME/LABEL[/SNAPSHOT]")
@click.argument("new", metavar="[HOST/VOLUME/LABEL/SNAPSHOT]", required=False)
@click.option("--content", is_flag=True, help="Compare the bytes of files whose size is the same.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def diff(path: Path, old: str, new: str | None, *, content: bool, as_json: bool) -> int:
    """Say what differs between two snapshots, or between the two newest of a label."""
    from flashback import disk  # noqa: PLC0415 - only this command needs it
    from flashback import find as action  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    one, other = _two(loaded, old, new)
    totals: dict[str, int] = {}
    for each in action.differences(one.path, other.path, content=content):
        kind = each.what if each.what in ("added", "removed") else "changed"
        totals[kind] = totals.get(kind, 0) + 1
        if as_json:
            print(json.dumps(asdict(each)))
        else:
            print(f"{each.what:16} {each.size:>12}  {_shown(each.path)}")
    if not as_json:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(totals.items())) or "nothing differs"
        print(f"{one.name} -> {other.name}: {counts}")
    return 0


def _two(loaded: Config, old: str, new: str | None) -> tuple[Snapshot, Snapshot]:
    from flashback import restore as action  # noqa: PLC0415 - only this command needs it

    if new is not None:
        return _one(loaded, old), _one(loaded, new)
    if old.strip("/").count("/") != 2:
        raise UsageError(f"{old} names no label", "Name HOST/VOLUME/LABEL, or two snapshots")
    found = [snapshot for _, snapshot in action.listing(loaded, old)]
    if len(found) < 2:
        raise UsageError(f"{old} has only one snapshot", "There is nothing to compare it with")
    return found[-2], found[-1]


def _one(loaded: Config, name: str) -> Snapshot:
    from flashback import restore as action  # noqa: PLC0415 - only this command needs it

    label, _, snapshot = name.strip("/").rpartition("/")
    if label.count("/") != 2:
        raise UsageError(f"{name} names no snapshot", "Wanted is HOST/VOLUME/LABEL/2026-11-23T030000Z")
    return action.chosen(loaded, label, (), snapshot)[0]


def _shown(path: str) -> str:
    """Return a path on one line, whatever bytes are in its name."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\n", "\\n")
