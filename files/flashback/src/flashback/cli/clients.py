"""Commands that look at a client before it is backed up: patterns, its rsync, the way to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from flashback import config as configuration
from flashback.errors import NotNowError, UsageError
from flashback.model import Config, Job, iso


@click.group("excludes")
def excludes_group() -> None:
    """See which files the patterns leave out."""


@excludes_group.command("test")
@click.argument("target", metavar="HOST/VOLUME[/LABEL]")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def excludes_test(path: Path, target: str, paths: tuple[str, ...], as_json: bool) -> int:
    """Say for each PATH below the source whether it is backed up.

    A PATH that ends in / is a folder. Without any PATH, the patterns are listed.
    """
    from flashback import excluding  # noqa: PLC0415 - only this command needs it

    job = _job(configuration.load(path), target)
    if as_json:
        decisions = [asdict(excluding.decide(job, each)) for each in paths]
        made = [{**each, "backed_up": not each["pattern"]} for each in decisions]
        print(json.dumps(made if paths else excluding.merged(job), indent=1))
        return 0
    for line in excluding.merged(job) if not paths else ():
        print(line)
    for each in paths:
        print(excluding.decide(job, each))
    return 0


@click.command()
@click.argument("target", metavar="HOST[/VOLUME]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def probe(path: Path, target: str, as_json: bool) -> int:
    """Say what the rsync of a client can do.

    And what a backup of that client loses, because its rsync cannot tell it.
    """
    from flashback import capability, process  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    job, address = _reached(loaded, target)
    found = capability.look(loaded, job, address, process.no_pulse)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    print(f"{job.host}: {found.age} (protocol {found.protocol})")
    for words in found.lost:
        print(f"  a backup loses {words}")
    if found.options:
        print(f"  set rsync_options: [{', '.join(found.options)}]")
    return 0


@click.command()
@click.argument("host")
@click.option("--from", "sources", metavar="ADDRESS", multiple=True, help="Where this server connects from.")
@click.option("--pin", "expected", metavar="FINGERPRINT", help="What the command showed at the client.")
@click.pass_obj
def enroll(path: Path, host: str, sources: tuple[str, ...], expected: str | None) -> int:
    """Let this server read a new client.

    Prints a command to paste into a shell of HOST, which shows the fingerprint of HOST's key. With that
    fingerprint as --pin, HOST is trusted from then on. HOST has to be in the configuration.
    """
    from flashback import doors as found  # noqa: PLC0415 - only this command needs it
    from flashback import enrolling  # noqa: PLC0415

    loaded = configuration.load(path)
    job = next((job for job in found.clients(loaded) if job.host == host), None)
    if job is None:
        raise UsageError(f"{path} has no client {host} that is reached by ssh", "Add it below `hosts:` first")
    if job.user == "root":
        raise UsageError(
            f"{host} is read as root", "Set `user: flashback-reader` for it: that account is made there"
        )
    if expected is None:
        own = enrolling.checked(sources) or enrolling.own_addresses()
        if not own:
            raise UsageError("This server's own addresses are not known", "Name them: --from ADDRESS")
        print(enrolling.command(job.user, enrolling.public_key(loaded), own))
        print(f"\nThen, here: flashback enroll {host} --pin FINGERPRINT")
        return 0
    address = enrolling.pin(loaded, job, expected)
    enrolling.require_readable(loaded, job, address)
    print(f"{host} is pinned at {address}, and {job.source} can be read there")
    return 0


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def doors(path: Path, host: str | None, *, as_json: bool) -> int:
    """Prove that the key can read and nothing else.

    At each client (or at HOST) a shell, writing and forwarding a port are tried. Exit status: 0 all are
    refused, 1 one is not.
    """
    from flashback import care, clock, disk  # noqa: PLC0415 - only this command needs it
    from flashback import doors as action  # noqa: PLC0415

    loaded = configuration.load(path)
    disk.require(loaded)
    jobs = [job for job in action.clients(loaded) if host in (None, job.host)]
    if not jobs:
        raise UsageError(f"No client{f' called {host}' if host else ''} is reached by ssh")
    made = [action.run(loaded, job, clock.now) for job in jobs]
    care.gather(loaded, clock.now())
    if as_json:
        print(json.dumps([{**asdict(each), "at": iso(each.at)} for each in made], indent=1))
    for each in () if as_json else made:
        print(each)
    return 1 if any(each.problems for each in made) else 0


@click.command("bench-ssh")
@click.argument("target", metavar="HOST/VOLUME")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def bench_ssh(path: Path, target: str, file: str, as_json: bool) -> int:
    """Measure which cipher of ssh is the fastest.

    Each cipher fetches FILE, a large one named as it is below the source.
    """
    from flashback import ciphers, disk  # noqa: PLC0415 - only this command needs it

    loaded = configuration.load(path)
    disk.require(loaded)
    job, address = _reached(loaded, target)
    if job.local or job.source.startswith("rsync://"):
        raise UsageError(f"{target} is not reached by ssh")
    results = []
    for each in ciphers.measure(loaded, job, address, file):
        results.append(each)
        if not as_json:
            speed = each.problem or f"{each.megabytes / each.seconds:8.1f} MB/s  {each.cpu:6.2f} s CPU here"
            print(f"{each.cipher:32} {speed}")
    if as_json:
        print(json.dumps([asdict(each) for each in results], indent=1))
        return 0
    good = [each for each in results if not each.problem]
    if good:
        print(f"ssh: {{ciphers: [{min(good, key=lambda each: each.cpu).cipher}]}}")
    return 0 if good else 1


def _job(loaded: Config, target: str) -> Job:
    from flashback import actions  # noqa: PLC0415 - only these commands need it

    return actions.select(loaded, target)[0]


def _reached(loaded: Config, target: str) -> tuple[Job, str]:
    from flashback import reach  # noqa: PLC0415 - only these commands need it

    job = _job(loaded, target)
    found = reach.look(job, loaded.known_hosts)
    if found.kind is not reach.Kind.REACHABLE:
        raise NotNowError(f"{job.host} cannot be reached: {found.reason}")
    return job, found.address
