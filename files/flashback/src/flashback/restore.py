"""Find snapshots and give files back from them.

An rsync from one complete snapshot into a directory, here or on a client.  Nothing is ever written to
the backup disk: that is the sacred rule, and it holds for targets reached by a link too.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from flashback import disk, process, reach, transfer
from flashback.errors import FlashbackError, NotNowError, UsageError
from flashback.model import Config, Job, Progress, Snapshot, snapshot_time
from flashback.store import open_store

LONG = 7 * 86400.0


def listing(config: Config, target: str | None) -> list[tuple[str, Snapshot]]:
    """Return (job, snapshot) for everything on the disk that the target names, oldest first.

    The disk is read, not the configuration: a client taken out of it keeps its snapshots.
    """
    store = open_store(config.data_dir)
    found = []
    for job in stored_jobs(config, target):
        found += [(job.name, snapshot) for snapshot in store.snapshots(job)]
    if target is not None and not found:
        raise UsageError(f"There is no snapshot of {target}", "`flashback snapshots` lists them all")
    return found


def stored_jobs(config: Config, target: str | None) -> list[Job]:
    """Return a job for every label directory on the disk that the target names."""
    wanted = [] if target is None else target.strip("/").split("/")
    jobs = []
    for path in sorted(config.data_dir.glob("[A-Za-z0-9]*/[A-Za-z0-9]*/[A-Za-z0-9]*")):
        names = path.relative_to(config.data_dir).parts
        if list(names[: len(wanted)]) == wanted and path.is_dir():
            host, volume, label = names
            jobs.append(Job(host, volume, label, source="/", addresses=()))
    return jobs


def restore(
    config: Config,
    target: str,
    paths: Sequence[str],
    to: Path,
    *,
    name: str,
    overwrite: bool,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> str:
    """Copy a snapshot, or paths of it, into a directory; return a sentence with the counts."""
    snapshot, sources = chosen(config, target, paths, name)
    _check_target(config, to, overwrite)
    if not dry_run:
        to.mkdir(parents=True, exist_ok=True)
    words = _copy(snapshot, sources, f"{to.resolve()}/", {}, dry_run=dry_run, on_progress=on_progress)
    return f"{words} {'would be ' if dry_run else ''}restored from {snapshot.path} to {to}"


def send(
    config: Config,
    target: str,
    paths: Sequence[str],
    machine: str,
    *,
    name: str,
    into: str | None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> str:
    """Copy a snapshot, or paths of it, to a client of the configuration, over ssh with the key for restores.

    Without `into` the files go where they came from, and files of the same name there are replaced; nothing
    is deleted.
    """
    snapshot, sources = chosen(config, target, paths, name)
    job = _client(config, machine)
    host, volume = target.strip("/").split("/")[:2]
    origin = next((each.source for each in config.jobs if (each.host, each.volume) == (host, volume)), None)
    folder = into or (origin if origin and not transfer.is_pattern(origin) else None)
    if folder is None or folder.startswith("rsync://"):
        raise UsageError(f"Where {host}/{volume} came from is not known", "Name the folder with --into")
    if not config.restore_key.exists():
        raise FlashbackError(
            f"There is no key for restores at {config.restore_key}",
            f"Make one with `ssh-keygen -t ed25519 -f {config.restore_key}` and allow it on the client",
        )
    found = reach.look(job, config.known_hosts)
    if found.kind is not reach.Kind.REACHABLE:
        raise NotNowError(f"{machine} cannot be reached: {found.reason}")
    address = f"[{found.address}]" if ":" in found.address else found.address
    env = {"RSYNC_RSH": transfer.shell(config, job, config.restore_key)}
    place = f"{job.user}@{address}:{folder.rstrip('/')}/"
    try:
        words = _copy(snapshot, sources, place, env, dry_run=dry_run, on_progress=on_progress)
    except FlashbackError as error:
        public = config.restore_key.with_suffix(".pub")
        line = public.read_text(encoding="utf-8").strip() if public.exists() else "ssh-ed25519 ..."
        allowed = f'restrict,command="rrsync -wo /" {line}'
        raise FlashbackError(
            error.what, f"May the key write there? In authorized_keys of {job.user}: {allowed}"
        ) from None
    return f"{words} {'would be ' if dry_run else ''}restored from {snapshot.path} to {machine}:{folder}"


def chosen(config: Config, target: str, paths: Sequence[str], name: str) -> tuple[Snapshot, list[str]]:
    """Return the snapshot that is meant, and the paths in it; refuse what is not there."""
    disk.require(config)
    snapshot = _choose(config, target, name)
    return snapshot, [_inside(snapshot.path, path) for path in paths] or ["."]


def _client(config: Config, machine: str) -> Job:
    found = next((job for job in config.jobs if job.host == machine), None)
    if found is None:
        known = ", ".join(sorted({job.host for job in config.jobs}))
        raise UsageError(f"No client is called {machine}", f"Known are {known}")
    return dataclasses.replace(found, local=False, source="/", only_networks=(), max_rtt_ms=None)


def _copy(
    snapshot: Snapshot,
    sources: Sequence[str],
    place: str,
    env: dict[str, str],
    *,
    dry_run: bool,
    on_progress: Callable[[Progress], None] | None,
) -> str:
    # With --relative a path keeps its directories: `etc/hosts` becomes TO/etc/hosts.
    # A client's rrsync lets no window for times through; files of one size and second count as equal there.
    keep = transfer.EVERYTHING if env else transfer.KEEP_ALL
    argv = ["rsync", *keep, *transfer.attribute_filters(), "--relative"]
    argv += ["--no-h", "--info=progress2,stats2", *(["--dry-run"] if dry_run else []), "--"]
    argv += [f"./{source}" if source != "." else "./" for source in sources] + [place]
    meter = transfer.Meter(on_progress) if on_progress else None
    done = process.run(
        argv, cwd=snapshot.path, timeout=LONG, env=env, on_output=meter.feed if meter else None
    )
    verdict = transfer.judge(done.code, done.stderr, done.timed_out)
    if done.code != 0:
        raise FlashbackError(
            f"The restore is not complete: {verdict.note}", "What was restored stays in place"
        )
    files, size = (_figure(done.stdout, key) for key in ("Number of files", "Total file size"))
    return f"{files} entries, {size} bytes"


def _figure(text: str, key: str) -> str:
    found = re.search(rf"^{key}: (\d+)", text, re.MULTILINE)
    return found[1] if found else "?"


def _choose(config: Config, target: str, name: str) -> Snapshot:
    if target.strip("/").count("/") < 1:
        raise UsageError(f"{target} names a whole client", "Name HOST/VOLUME or HOST/VOLUME/LABEL")
    found = sorted((snapshot for _, snapshot in listing(config, target)), key=lambda each: each.taken)
    if name == "latest":
        return found[-1]
    if name.startswith("before "):
        return _before(found, name.removeprefix("before ").strip(), target)
    matching = [snapshot for snapshot in found if snapshot.taken == snapshot_time(name)]
    if len(matching) != 1:
        known = ", ".join(snapshot.name for snapshot in found[-5:])
        raise UsageError(f"{target} has no snapshot called {name}", f"The newest are {known}")
    return matching[0]


def _before(found: Sequence[Snapshot], day: str, target: str) -> Snapshot:
    """Return the newest snapshot that was taken before a day, which begins at midnight of the wall clock."""
    try:
        moment = datetime.strptime(day, "%Y-%m-%d").astimezone()
    except ValueError:
        raise UsageError(f"`{day}` is not a day", "Write it like --snapshot 'before 2026-11-01'") from None
    earlier = [snapshot for snapshot in found if snapshot.taken < moment]
    if not earlier:
        raise UsageError(f"{target} has no snapshot before {day}", f"The oldest is {found[0].name}")
    return earlier[-1]


def _inside(top: Path, path: str) -> str:
    """Return a path relative to the snapshot; refuse one that leaves it, by name or through a link."""
    relative = os.path.normpath(path.lstrip("/") or ".")
    if ".." in path.split("/"):
        raise UsageError(f"{path} leaves the snapshot", "Name paths as they are below the volume")
    parent = (top / relative).parent.resolve() if relative != "." else top.resolve()
    if not parent.is_relative_to(top.resolve()):
        raise UsageError(f"{path} leads out of the snapshot through a link", "Name the link's target instead")
    if not os.path.lexists(top / relative):
        raise UsageError(f"{path} is not in {top}", "Paths are relative to the volume")
    return relative


def _check_target(config: Config, to: Path, overwrite: bool) -> None:
    if to.resolve().is_relative_to(config.data_dir.resolve()):
        raise UsageError(
            f"{to} is on the backup disk", "Snapshots are never written to; name another directory"
        )
    existing = next(each for each in (to.absolute(), *to.absolute().parents) if each.exists())
    if existing.stat().st_dev == config.data_dir.stat().st_dev and os.path.ismount(config.data_dir):
        raise UsageError(f"{to} is on the backup disk", "Name a directory on another disk")
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is not a directory")
    if to.is_dir() and any(to.iterdir()) and not overwrite:
        raise UsageError(f"{to} is not empty", "Name an empty directory, or use --overwrite")
