"""Commands that prove what is stored: read it again, restore a sample, list what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashback import config as configuration
from flashback.cli import console
from flashback.cli.stopping import stoppable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flashback.drill import Result
    from flashback.ledger import Damage
    from flashback.model import Config
    from flashback.verify import Slice

NEXT = "The next `flashback verify` goes on where this one ended"


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
    """Read stored files again and heal damage.

    Each file is compared with its checksum; a damaged one is replaced by a good copy where there is one.
    Exit status: 0 all is well, 1 something is damaged.
    """
    from flashback import manifest  # noqa: PLC0415 - only this command needs it
    from flashback import verify as action  # noqa: PLC0415

    loaded = configuration.load(path)
    if names:
        gone = action.forget(loaded, names)
        _gather(loaded)
        return _forget(gone, names, as_json)
    size = None if budget is None else _size(budget)
    pulse = stoppable(NEXT)
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
    """Do the daemon's work between two backups.

    It makes the next backup ready and deletes what has expired, checks new snapshots, reads this night's
    share again and tries restores. Exit status: 1 when some of it failed.
    """
    from flashback import chores as action  # noqa: PLC0415 - only this command needs it
    from flashback import clock  # noqa: PLC0415

    failed = action.run(configuration.load(path), stoppable(NEXT), clock.now)
    for each in failed:
        print(f"! {each}")
    return 1 if failed else 0


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def drill(path: Path, host: str | None, *, as_json: bool) -> int:
    """Prove that a restore works, with a sample.

    Some files of each client (or of HOST) are restored and compared. Exit status: 0 all are right, 1 one
    is not.
    """
    from flashback import disk  # noqa: PLC0415 - only this command needs it
    from flashback import drill as action  # noqa: PLC0415
    from flashback.errors import NotNowError  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    pulse = stoppable(NEXT)
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
    """List the stored files known to be damaged.

    Exit status: 0 there are none, 1 there are some.
    """
    from flashback import disk, verify  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    disk.require(loaded)
    found = verify.damage(loaded)
    if as_json:
        print(json.dumps([_damage(each) for each in found], indent=1))
    elif not found:
        print("No stored file is known to be damaged.")
    else:
        rows = [
            (each.names[0], each.kind, str(len(each.places)), "\n".join(filter(None, _about(each))))
            for each in found
        ]
        lines = (line for each in found for line in _told(each))
        console.table(("FILE", "DAMAGE", "SNAPSHOTS", "ABOUT"), rows, lines, right=("SNAPSHOTS",))
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


def _say(made: Slice) -> None:
    how = "everything was read" if made.complete else "the next slice goes on from here"
    print(f"{made.files} files, {made.bytes} bytes read again in {made.seconds:.1f} seconds: {how}.")
    for note in made.notes:
        print(f"{note}.")
    for each in made.healed:
        print(f"Healed: {each.names[0]} ({len(each.places)} snapshots), {each.reason}.")
    for line in (line for each in made.open for line in _told(each)):
        print(line)
    if not made.open:
        print("No stored file is known to be damaged.")


def _told(each: Damage) -> Iterator[str]:
    """Yield the lines on a damaged file."""
    reason, evidence = _about(each)
    yield f"Damaged ({each.kind}): {each.names[0]}, in {len(each.places)} snapshots. {reason}".rstrip()
    if evidence:
        yield f"  {evidence}"


def _about(each: Damage) -> tuple[str, str]:
    """Return why a file counts as damaged and where the bad copy is, each empty when there is nothing."""
    from flashback.ledger import shown  # noqa: PLC0415 - as above

    kept = "" if each.evidence is None else f"the bad file is kept as {shown(each.evidence)}"
    return each.reason, kept


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
