"""Commands that prove what is stored: read it again, restore a sample, list what is damaged."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashback import config as configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashback.drill import Result
    from flashback.ledger import Damage
    from flashback.model import Config, Pulse
    from flashback.verify import Slice


@click.command()
@click.argument("target", metavar="[HOST[/VOLUME[/LABEL]]]", required=False)
@click.option("--all", "everything", is_flag=True, help="Read everything once, however long it takes.")
@click.option("--budget", metavar="SIZE", help="Read so much, such as 500M, instead of the night's share.")
@click.option("--forget", "names", metavar="PATH", multiple=True, help="Take damage off the list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def verify(
    path: Path,
    target: str | None,
    *,
    everything: bool,
    budget: str | None,
    names: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read stored files again, name and heal what is damaged. Exit status: 1 when something is damaged."""
    from flashback import manifest  # noqa: PLC0415 - only this command needs it
    from flashback import verify as action  # noqa: PLC0415

    loaded = configuration.load(path)
    if names:
        gone = action.forget(loaded, names)
        _gather(loaded)
        return _forget(gone, names, as_json)
    size = None if budget is None else _size(budget)
    pulse = _stoppable()
    if target is not None:
        from flashback import picking  # noqa: PLC0415 - as above

        picking.listing(loaded, target)
    unsealed = len(manifest.missing(loaded, loaded.jobs))
    made = action.run(loaded, target, budget=size, everything=everything, pulse=pulse)
    _gather(loaded)
    if as_json:
        print(json.dumps({**_slice(made), "without_manifest": unsealed}, indent=1))
    else:
        _say(made)
        if unsealed:
            print(f"{unsealed} snapshots have no manifest yet and were not read.")
    return 1 if made.open else 0


@click.command()
@click.pass_obj
def chores(path: Path) -> int:
    """Do what the daemon does between backups: checksums of new snapshots, the night's slice, drills."""
    from flashback import chores as action  # noqa: PLC0415 - only this command needs it
    from flashback import clock  # noqa: PLC0415

    action.run(configuration.load(path), _stoppable(), clock.now)
    return 0


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def drill(path: Path, host: str | None, *, as_json: bool) -> int:
    """Restore a sample of each client (or of HOST) and compare it. Exit status: 1 when one is not right."""
    from flashback import disk  # noqa: PLC0415 - only this command needs it
    from flashback import drill as action  # noqa: PLC0415
    from flashback.errors import NotNowError  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    pulse = _stoppable()
    names = action.hosts(loaded) if host is None else [host]
    if not names:
        raise NotNowError("No snapshot has a manifest yet", "The first one is written after the next backup")
    made = [action.run(loaded, name, pulse=pulse) for name in names]
    _gather(loaded)
    if as_json:
        print(json.dumps([_result(each) for each in made], indent=1))
    for each in () if as_json else made:
        print(_sentence(each))
        for problem in each.problems:
            print(f"  {problem}")
    return 0 if all(each.good for each in made) else 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def damage(path: Path, *, as_json: bool) -> int:
    """List the stored files known to be damaged. Exit status: 1 when there are any."""
    from flashback import disk, verify  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    disk.require(loaded)
    found = verify.damage(loaded)
    if as_json:
        print(json.dumps([_damage(each) for each in found], indent=1))
    elif not found:
        print("No stored file is known to be damaged.")
    for each in () if as_json else found:
        _say_damage(each)
    return 1 if found else 0


def _gather(loaded: Config) -> None:
    """Let the status know what was found."""
    from flashback import care, clock  # noqa: PLC0415 - only these commands need it

    care.gather(loaded, clock.now())


def _forget(gone: Sequence[Damage], names: Sequence[str], as_json: bool) -> int:
    from flashback.errors import UsageError  # noqa: PLC0415 - as above

    if as_json:
        print(json.dumps([_damage(each) for each in gone], indent=1))
    for each in () if as_json else gone:
        print(f"Forgotten: {each.names[0]}")
    if not gone:
        raise UsageError(f"{names[0]} is not on the list of damage", "`flashback damage` shows it")
    return 0


def _size(text: str) -> int:
    from flashback.errors import UsageError  # noqa: PLC0415 - as above

    number, unit = text[:-1], text[-1:].upper()
    units = {"K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
    if unit not in units or not number.replace(".", "", 1).isdigit() or float(number) == 0:
        raise UsageError(f"`{text}` is not a size", "Write a number with its unit, such as 500M or 2G")
    return int(float(number) * units[unit])


def _stoppable() -> Pulse:
    """Return a pulse that ends the work in an orderly way after SIGTERM or ctrl-C."""
    from flashback.errors import StoppedError  # noqa: PLC0415 - as above

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))

    def pulse() -> None:
        if stopping:
            error = StoppedError()
            error.what, error.hint = (
                "It was stopped",
                "The next `flashback verify` goes on where this one ended",
            )
            raise error

    return pulse


def _say(made: Slice) -> None:
    how = "everything was read" if made.complete else "the next slice goes on from here"
    print(f"{made.files} files, {made.bytes} bytes read again in {made.seconds:.1f} seconds: {how}.")
    for note in made.notes:
        print(f"{note}.")
    for each in made.healed:
        print(f"Healed: {each.names[0]} ({len(each.places)} snapshots), {each.reason}.")
    for each in made.open:
        _say_damage(each)
    if not made.open:
        print("No stored file is known to be damaged.")


def _say_damage(each: Damage) -> None:
    print(f"Damaged ({each.kind}): {each.names[0]}, in {len(each.places)} snapshots. {each.reason}".rstrip())
    if each.evidence is not None:
        from flashback.ledger import shown  # noqa: PLC0415 - as above

        print(f"  the bad file is kept as {shown(each.evidence)}")


def _sentence(each: Result) -> str:
    from flashback.model import iso  # noqa: PLC0415 - as above

    amount = f"{each.files} files, {each.bytes} bytes in {each.seconds:.1f} seconds"
    if each.compared < 0:
        client = "the client was away"
    else:
        client = f"{each.compared} of them are the same on the client"
    word = "proven" if each.good else f"FAILED with {len(each.problems)} problems"
    return (
        f"{each.host}: restore {word} at {iso(each.at)}: {amount} from {', '.join(each.snapshots)}; {client}."
    )


def _damage(each: Damage) -> dict[str, Any]:
    from flashback.ledger import shown  # noqa: PLC0415 - as above
    from flashback.model import iso  # noqa: PLC0415

    return {
        "volume": f"{each.host}/{each.volume}",
        "path": shown(each.path),
        "kind": each.kind,
        "bytes": each.size,
        "found_at": iso(each.found_at),
        "healed_at": iso(each.healed_at),
        "reason": each.reason,
        "places": each.names,
        "evidence": None if each.evidence is None else shown(each.evidence),
    }


def _slice(made: Slice) -> dict[str, Any]:
    return {
        "files": made.files,
        "bytes": made.bytes,
        "seconds": round(made.seconds, 3),
        "complete": made.complete,
        "found": [_damage(each) for each in made.found],
        "healed": [_damage(each) for each in made.healed],
        "damaged": [_damage(each) for each in made.open],
        "notes": list(made.notes),
    }


def _result(each: Result) -> dict[str, Any]:
    from flashback.model import iso  # noqa: PLC0415 - as above

    return {
        "host": each.host,
        "at": iso(each.at),
        "good": each.good,
        "snapshots": list(each.snapshots),
        "files": each.files,
        "bytes": each.bytes,
        "seconds": each.seconds,
        "compared": None if each.compared < 0 else each.compared,
        "problems": list(each.problems),
    }
