"""Commands for who sets the engine up: the disk, the configuration, the light."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashback import config as configuration
from flashback.errors import ConfigError

if TYPE_CHECKING:
    from flashback.second_disk import Copied


@click.group("disk")
def disk_group() -> None:
    """Prepare the backup disk."""


@disk_group.command("mark")
@click.argument("mount", type=click.Path(path_type=Path))
def disk_mark(mount: Path) -> int:
    """Mark the disk mounted on MOUNT as the backup disk.

    Only a marked disk is written to. Its id is printed; `disk_id` in the configuration may insist on it.
    """
    from flashback import disk  # noqa: PLC0415 - only what this command needs

    print(disk.mark(mount))
    return 0


@disk_group.command("copy")
@click.argument("mount", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the disk is mounted that is copied, if not the one in use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each snapshot, one per line.")
@click.pass_obj
def disk_copy(path: Path, mount: Path, source: Path | None, as_json: bool) -> int:
    """Copy all snapshots to the disk mounted on MOUNT.

    For a new disk that takes the place of an old one, or for a second copy in another house. The disk on
    MOUNT has to be marked. What it has already is not copied again, and each copy is read and compared by its
    checksums.
    """
    from flashback import picking, second_disk  # noqa: PLC0415 - only what this command needs
    from flashback.cli import console  # noqa: PLC0415
    from flashback.cli.stopping import stoppable  # noqa: PLC0415

    pulse = stoppable("The next `flashback disk copy` goes on where this one ended")
    here = configuration.load(path)
    here = here if source is None else second_disk.at(here, source)
    there = second_disk.other(here, mount)
    missing = second_disk.missing(here, there)
    second_disk.require_room(here, there)
    made = []
    for each in second_disk.copy(here, there, missing, pulse):
        made.append(each)
        name = f"{each.job.name}/{each.snapshot.name}"
        if as_json:
            row = {"job": each.job.name, "snapshot": each.snapshot.name, "proven": each.proven}
            more = {"files": each.read, "bytes": each.read_bytes, "problem": each.problem}
            print(
                json.dumps({**row, **more, "lost": [picking.shown(lost) for lost in each.lost]}), flush=True
            )
        elif each.problem:
            console.say(f"! {each.problem}", "red")
        else:
            proof = "as its checksums say" if each.proven else "no checksums to compare with"
            console.say(f"{name}: {each.read} new files, {console.amount(each.read_bytes)}, {proof}")
            for lost in each.lost:
                console.say(f"! {name}/{picking.shown(lost)} is damaged and left out", "yellow")
    if not as_json:
        console.say(_told(made))
    return 1 if any(each.problem for each in made) else 0


def _told(made: Sequence[Copied]) -> str:
    """Return in one line how many snapshots were copied, and what is to be known of them."""
    copied = [each for each in made if not each.problem]
    failed = len(made) - len(copied)
    unproven, lost = sum(not each.proven for each in copied), sum(len(each.lost) for each in copied)
    parts = [f"{len(copied)} snapshots copied"]
    parts += [f"{unproven} of them without checksums to compare with"] if unproven else []
    parts += [f"without {lost} damaged files"] if lost else []
    parts += [f"{failed} could not be copied"] if failed else []
    return ", ".join(parts)


@click.group("config")
def config_group() -> None:
    """Check the configuration, or make one."""


@config_group.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def config_check(path: Path, file: Path | None, as_json: bool) -> int:
    """List every mistake in the configuration, one per line.

    FILE is checked instead of the configuration in use. Exit status: 0 it is good, 2 it is not.
    """
    try:
        loaded = configuration.load(file or path)
    except ConfigError as error:
        if as_json:
            _print_checked(file or path, [], error.problems, [])
        for problem in () if as_json else error.problems:
            print(problem, file=sys.stderr)
        return error.exit_code
    if as_json:
        _print_checked(loaded.path, [job.name for job in loaded.jobs], [], configuration.advice(loaded))
        return 0
    for line in configuration.advice(loaded):
        print(f"{loaded.path}: {line}", file=sys.stderr)
    print(f"{loaded.path}: good, {len(loaded.jobs)} jobs")
    return 0


def _print_checked(path: Path, jobs: list[str], problems: list[str], advice: Iterable[str]) -> None:
    made = {"path": str(path), "good": not problems, "jobs": jobs, "problems": problems}
    print(json.dumps({**made, "advice": list(advice)}, indent=1))


@config_group.command("import")
@click.argument("old", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to this file, which must not exist."
)
@click.option(
    "--excludes",
    "trees",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Look here too for HOST/VOLUME/excludes and the config files of the old disk; may be repeated.",
)
def config_import(old: Path, output: Path | None, trees: tuple[Path, ...]) -> int:
    """Turn a configuration of 2014 into a new one.

    OLD is its JSON file, or flashback.conf with flashback.jobs beside it. The new one goes to standard
    output; what could not be carried over is listed on standard error.
    """
    from flashback import legacy  # noqa: PLC0415 - only what this command needs
    from flashback.errors import UsageError  # noqa: PLC0415

    made = legacy.convert(old, trees)
    for note in made.notes:
        print(f"! {note}", file=sys.stderr)
    if output is None:
        print(made.text, end="")
        return 0
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(made.text)
    except FileExistsError:
        raise UsageError(f"{output} exists already", "Name another file, or move it away") from None
    return 0


@click.command()
@click.option(
    "--from",
    "tree",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder of the disk that holds HOST/VOLUME/LABEL.1, if not the disk itself.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only list what would be renamed.")
@click.option("--json", "as_json", is_flag=True, help="Print the renames and what is to be known as JSON.")
@click.pass_obj
def adopt(path: Path, tree: Path | None, dry_run: bool, as_json: bool) -> int:
    """Take over snapshots of the flashback of 2014.

    They lie on the backup disk already, and nothing is copied. Stop the old engine first. Everything is a
    rename; begun again after an interruption it finishes the rest.
    """
    from flashback import adopt as action  # noqa: PLC0415 - only what this command needs
    from flashback import clock, disk  # noqa: PLC0415

    loaded = configuration.load(path)
    root = loaded.data_dir
    with disk.locked(loaded):
        moves, notes = action.unfinished(root), ["an interrupted adoption is finished first"]
        if not moves:
            found = action.plan(root, tree or root, loaded.jobs, clock.now())
            moves, notes = found.moves, found.notes
            if moves and not dry_run:
                action.begin(root, moves)
        if moves and not dry_run:
            action.finish(root)
    if as_json:
        rows = [{"old": action.shown(move.old), "new": action.shown(move.new)} for move in moves]
        print(json.dumps({"renamed": not dry_run, "moves": rows, "notes": notes}, indent=1))
        return 0
    for move in moves:
        print(f"{action.shown(move.old)} -> {action.shown(move.new)}")
    for line in notes:
        print(f"! {line}", file=sys.stderr)
    print(f"{len(moves)} trees {'would be' if dry_run else 'are'} taken over")
    return 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes a shell complete commands.

    For bash: `flashback completion bash > /etc/bash_completion.d/flashback`.
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only what this command needs

    from flashback.cli import cli  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the three choices above are click's
    print(kind(cli, {}, "flashback", "_FLASHBACK_COMPLETE").source())
    return 0


@click.command()
@click.option("--man/--markdown", "as_page", default=True, help="A man page, or the same as Markdown.")
def manual(as_page: bool) -> int:
    """Print this manual: `flashback manual | man -l -`."""
    from flashback import manual as book  # noqa: PLC0415 - only what this command needs
    from flashback.cli import cli  # noqa: PLC0415

    print(book.man_page(cli) if as_page else book.markdown(cli), end="")
    return 0


@click.command()
@click.option("--green", help="The green LED below /sys/class/leds, as a glob.")
@click.option("--red", help="The red LED below /sys/class/leds, as a glob.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/sys/class/leds"),
    show_default=True,
    help="Where the LEDs are.",
)
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
