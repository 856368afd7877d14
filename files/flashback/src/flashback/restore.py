"""Find snapshots and give files back from them.

A local rsync from one complete snapshot into a directory.  Nothing is ever written to
the backup disk: that is the sacred rule, and it holds for targets reached by a link too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from flashback import disk, process, transfer
from flashback.errors import FlashbackError, UsageError
from flashback.model import Config, Job, Snapshot, snapshot_time
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
    config: Config, target: str, paths: Sequence[str], to: Path, *, name: str, overwrite: bool
) -> str:
    """Copy a snapshot, or paths of it, into a directory; return a sentence with the counts."""
    disk.require(config)
    snapshot = _choose(config, target, name)
    sources = [_inside(snapshot.path, path) for path in paths] or ["."]
    _check_target(config, to, overwrite)
    to.mkdir(parents=True, exist_ok=True)
    # With --relative a path keeps its directories: `etc/hosts` becomes TO/etc/hosts.
    argv = [
        "rsync",
        *transfer.KEEP_ALL,
        *transfer.attribute_filters(),
        "--relative",
        "--no-h",
        "--info=stats2",
        "--",
    ]
    argv += [f"./{source}" if source != "." else "./" for source in sources] + [f"{to.resolve()}/"]
    done = process.run(argv, cwd=snapshot.path, timeout=LONG)
    verdict = transfer.judge(done.code, done.stderr, done.timed_out)
    if done.code != 0:
        raise FlashbackError(
            f"The restore is not complete: {verdict.note}", "What was restored stays in place"
        )
    files, size = (_figure(done.stdout, key) for key in ("Number of files", "Total file size"))
    return f"{files} entries, {size} bytes restored from {snapshot.path} to {to}"


def _figure(text: str, key: str) -> str:
    found = re.search(rf"^{key}: (\d+)", text, re.MULTILINE)
    return found[1] if found else "?"


def _choose(config: Config, target: str, name: str) -> Snapshot:
    if target.strip("/").count("/") < 1:
        raise UsageError(f"{target} names a whole client", "Name HOST/VOLUME or HOST/VOLUME/LABEL")
    found = sorted((snapshot for _, snapshot in listing(config, target)), key=lambda each: each.taken)
    if name == "latest":
        return found[-1]
    matching = [snapshot for snapshot in found if snapshot.taken == snapshot_time(name)]
    if len(matching) != 1:
        known = ", ".join(snapshot.name for snapshot in found[-5:])
        raise UsageError(f"{target} has no snapshot called {name}", f"The newest are {known}")
    return matching[0]


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
