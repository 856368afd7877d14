"""Choose what is to be given back: a snapshot, paths in it, and what of them is known to be damaged.

The disk is read, not the configuration: a client taken out of it keeps its snapshots.  Nothing is written.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flashback import disk
from flashback.beside import beneath, look, opened
from flashback.errors import FlashbackError, UsageError
from flashback.model import SUSPECT, Config, Job, Snapshot, snapshot_time
from flashback.store import open_store

if TYPE_CHECKING:
    import sqlite3

    from flashback.ledger import Damage


@dataclass(frozen=True)
class Chosen:
    """What is to be given back."""

    snapshot: Snapshot
    sources: tuple[str, ...] = (".",)
    """Paths below the snapshot, none below another; `.` is all of it."""
    damaged: tuple[bytes, ...] = ()
    """Files at or below these paths that are damaged: lost, or not to be read."""
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """Return what is to be said of the damaged ones, a line each."""
        return tuple(f"damaged on the backup disk: {shown(each)}" for each in self.damaged)


def choose(config: Config, target: str, paths: Sequence[str], name: str) -> Chosen:
    """Return the snapshot that is meant, and the paths in it; refuse what is not there."""
    disk.require(config)
    snapshot = pick(config, target, name)
    lost, notes = _damaged(config, snapshot)
    sources = _outermost([_inside(snapshot.path, path, lost) for path in paths] or ["."])
    beneath = {each for each in lost if any(holds(source, os.fsdecode(each)) for source in sources)}
    return Chosen(snapshot, sources, tuple(sorted(beneath)), notes)


def holds(source: str, path: str) -> bool:
    """Return whether a path is at or below another."""
    return source in (".", path) or path.startswith(f"{source}/")


def shown(path: bytes) -> str:
    """Return a path on one line: bytes that are no printable text are written as `\\xNN`."""
    from flashback.ledger import shown as visible  # noqa: PLC0415 - the daemon has no need of it here

    return visible(path)


def size(config: Config, chosen: Chosen) -> int | None:
    """Return how many bytes the chosen files have, or None when only reading all of a snapshot would tell."""
    snapshot = chosen.snapshot
    if chosen.sources != (".",):
        with opened([snapshot.path]) as (tree,):
            found = (look(tree, path) for source in chosen.sources for path in beneath(tree, source))
            return sum(each.st_size for each in found if each is not None and stat.S_ISREG(each.st_mode))
    query = "SELECT bytes FROM runs WHERE job = ? AND snapshot = ?"
    name = job_at(config, snapshot.path.parent).name
    try:
        with _database(config, "history.db") as db:
            row = db.execute(query, (name, snapshot.name)).fetchone() if db else None
    except FlashbackError:
        return None
    return int(row[0]) if row else None


def _damaged(config: Config, snapshot: Snapshot) -> tuple[list[bytes], tuple[str, ...]]:
    """Return the paths in a snapshot that are damaged and could not be healed, and what else is to be said.

    Such a file either lost its name there, or the disk cannot read it.
    """
    job = job_at(config, snapshot.path.parent)
    try:
        known = known_damage(config)
    except FlashbackError as error:
        # Who has lost a file is not to be turned away for a list.
        return [], (
            f"the list of damaged files cannot be read: {error.what}; `flashback damage` may mend it",
        )
    own = (job.host, job.volume, job.label, snapshot.path.name)
    places = [
        (each.host, each.volume, at.label, at.snapshot, at.path) for each in known for at in each.places
    ]
    return [path for *name, path in places if tuple(name) == own], ()


def known_damage(config: Config) -> list[Damage]:
    """Return what is known to be damaged on the disk and could not be healed; the disk is only read."""
    from flashback.ledger import Ledger  # noqa: PLC0415 - the daemon has no need of it here

    with _database(config, "verify.db") as db:
        return Ledger(db).damage() if db else []


@contextmanager
def _database(config: Config, name: str) -> Iterator[sqlite3.Connection | None]:
    """Open one of the disk's databases for reading alone; None when there is none."""
    import sqlite3  # noqa: PLC0415 - a megabyte that the sleeping daemon can do without

    place = config.data_dir / disk.META / name
    try:
        if not place.is_file():
            yield None
            return
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            yield db
    except sqlite3.Error as error:
        raise FlashbackError(str(error)) from None


def _outermost(sources: Sequence[str]) -> tuple[str, ...]:
    """Return the paths without those that lie below another one."""
    once = dict.fromkeys(sources)
    return tuple(each for each in once if not any(holds(other, each) for other in once if other != each))


def pick(config: Config, target: str, name: str) -> Snapshot:
    """Return the snapshot of HOST/VOLUME[/LABEL] that a name, `latest`, a day or `before DAY` stands for."""
    if target.strip("/").count("/") < 1:
        raise UsageError(f"{target} names a whole client", "Name HOST/VOLUME or HOST/VOLUME/LABEL")
    if name.startswith(SUSPECT):
        found = [
            each for job in stored_jobs(config, target) for each in open_store(config.data_dir).suspects(job)
        ]
        return _only([each for each in found if each.name == name], found, target, name)
    found = sorted((snapshot for _, snapshot in listing(config, target)), key=lambda each: each.taken)
    if name == "latest":
        return found[-1]
    if name.startswith("before "):
        return _before(found, _day(name.removeprefix("before ").strip()), target)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", name):
        day = _day(name).date()
        on_it = [each for each in found if each.taken.astimezone().date() == day]
        return on_it[-1] if on_it else _only([], found, target, name)
    return _only([each for each in found if each.taken == snapshot_time(name)], found, target, name)


def _only(matching: Sequence[Snapshot], known: Sequence[Snapshot], target: str, name: str) -> Snapshot:
    if len(matching) > 1:
        raise UsageError(f"{target} has {len(matching)} snapshots called {name}", "Name the label too")
    if not matching:
        names = ", ".join(snapshot.name for snapshot in known[-5:])
        raise UsageError(
            f"{target} has no snapshot called {name}", f"The newest are {names}" if names else "There is none"
        )
    return matching[0]


def _day(text: str) -> datetime:
    """Return the midnight, by the wall clock, with which a day begins."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").astimezone()
    except (ValueError, OverflowError):
        raise UsageError(f"`{text}` is not a day", "Write it like --snapshot 'before 2026-11-01'") from None


def _before(found: Sequence[Snapshot], moment: datetime, target: str) -> Snapshot:
    earlier = [snapshot for snapshot in found if snapshot.taken < moment]
    if not earlier:
        raise UsageError(
            f"{target} has no snapshot before {moment:%Y-%m-%d}", f"The oldest is {found[0].name}"
        )
    return earlier[-1]


def _inside(top: Path, path: str, lost: Sequence[bytes]) -> str:
    """Return a path relative to the snapshot; refuse one that leaves it, by name or through a link."""
    relative = os.path.normpath(path.lstrip("/") or ".")
    if ".." in path.split("/"):
        raise UsageError(f"{path} leaves the snapshot", "Name paths as they are below the volume")
    if relative == ".":
        return relative
    if os.fsencode(relative) in lost and not os.path.lexists(top / relative):
        raise FlashbackError(f"{path} is damaged and lost in this snapshot", "`flashback find` lists others")
    # By way of a link inside the snapshot: rsync would write through the copy of the link.
    parent = (top / relative).parent.resolve()
    if not parent.is_relative_to(top.resolve()):
        raise UsageError(f"{path} leads out of the snapshot through a link", "Name the link's target instead")
    relative = str((parent / Path(relative).name).relative_to(top.resolve()))
    if not os.path.lexists(top / relative):
        raise UsageError(f"{path} is not in {top}", "Paths are relative to the volume")
    return relative


def listing(config: Config, target: str | None) -> list[tuple[str, Snapshot]]:
    """Return (job, snapshot) for everything on the disk that the target names, oldest first."""
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
            jobs.append(job_at(config, path))
    return jobs


def job_at(config: Config, label: Path) -> Job:
    """Return a job that stands for a label directory on the disk."""
    host, volume, name = label.relative_to(config.data_dir).parts
    return Job(host, volume, name, source="/", addresses=())
