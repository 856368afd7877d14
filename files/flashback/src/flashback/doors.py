"""Prove that the engine's key can read at a client and do nothing else.

Three doors are tried that have to be shut: a shell, writing, forwarding a port in both directions.
Nothing is changed at the client: writing is tried by a dry run.  Whoever steals the key could do what
is found open here.

The sacred rule: a client that did not answer proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from flashback import process, reach, transfer
from flashback.errors import NotNowError
from flashback.ledger import asked, opened
from flashback.model import Config, Job, Pulse
from flashback.status import Doors

# A day, less what the times of two passes may differ.
OFTEN = timedelta(hours=20)
# Seconds for one door.
PATIENCE = 30
# Seconds after which a port that was not refused is taken to be forwarded.
FORWARDED = 10
# What ssh's own failure is.
NO_CONNECTION = 255


def last(config: Config) -> list[Doors]:
    """Return what was found last at each client that the configuration still has."""
    hosts = {job.host for job in _by_ssh(config)}
    found = asked(config.data_dir, lambda ledger: ledger.doors()) or []
    return [Doors(host, at, tuple(problems)) for host, at, problems in found if host in hosts]


def due(config: Config, now: datetime) -> list[Job]:
    """Return a job of each client whose doors were not tried for a day."""
    fresh = {each.host for each in last(config) if timedelta(0) <= now - each.at < OFTEN}
    return [job for job in clients(config) if job.host not in fresh]


def clients(config: Config) -> list[Job]:
    """Return one job of each client that is reached by ssh."""
    return list({job.host: job for job in reversed(_by_ssh(config))}.values())[::-1]


def run(config: Config, job: Job, now: Callable[[], datetime], pulse: Pulse = process.no_pulse) -> Doors:
    """Try the doors of a job's client and write down what was found; raise NotNowError when it is away."""
    found = reach.look(job, config.known_hosts, pulse)
    if found.kind is not reach.Kind.REACHABLE:
        raise NotNowError(f"{job.host} cannot be reached: {found.reason}")
    tried = Doors(job.host, now(), tuple(_problems(config, job, found.address, pulse)))
    with opened(config.data_dir) as ledger:
        ledger.note_doors(tried.host, tried.at, tried.problems)
    return tried


def _by_ssh(config: Config) -> list[Job]:
    return [
        job
        for job in config.jobs
        if not job.local and not job.source.startswith("rsync://") and job.copy_of is None
    ]


def _problems(config: Config, job: Job, address: str, pulse: Pulse) -> Iterator[str]:
    target = f"{job.user}@{address}"

    def ssh(*words: str, patience: float = PATIENCE) -> process.Finished:
        argv = [*transfer.ssh(config, job), *words]
        return process.run(process.tied(argv), pulse=pulse, timeout=patience)

    shell = ssh(target, "echo flashback-$((6*7))")
    if shell.code == NO_CONNECTION:
        raise NotNowError(f"{job.host} does not let the key in: {' '.join(shell.stderr.split())[-200:]}")
    if "flashback-42" in shell.stdout:
        yield "gets a shell"
    # A file that is certainly there; a dry run asks for the right to write and sends nothing.
    push = ["rsync", "--dry-run", f"--timeout={PATIENCE}", "--", __file__]
    push.append(f"{transfer.sources(job, address)[0].rstrip('/')}/{Path(__file__).name}")
    env = {"RSYNC_RSH": transfer.shell(config, job)}
    if process.run(process.tied(push), pulse=pulse, timeout=2 * PATIENCE, env=env).code == 0:
        yield "can write"
    # The client's own ssh server answers through a forwarded port with its name.
    out = ssh("-W", f"127.0.0.1:{job.port}", target)
    back = ssh("-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9", target, patience=FORWARDED)
    if out.stdout.startswith("SSH-") or back.timed_out or "Allocated port" in back.stderr:
        yield "can forward ports"
