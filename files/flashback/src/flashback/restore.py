"""Find snapshots and give files back from them.

An rsync from one complete snapshot into a directory, here or on a client.  What is known to be damaged is
said, never passed over.  The sacred rule: nothing is ever written to the backup disk, and it holds for
targets reached by a link or a mount too; and nothing is ever deleted at the target.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flashback import disk, process, reach, transfer
from flashback.errors import FlashbackError, NotNowError, UsageError
from flashback.model import SUSPECT, Config, Job, Progress, Snapshot, snapshot_time
from flashback.store import open_store

LONG = 7 * 86400.0
# user@host:/folder, with an IPv6 address in brackets. What begins with a dash would be an option of ssh.
_PLACE = re.compile(
    r"(?:(?P<user>[A-Za-z_][\w.-]*)@)?(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<folder>/.*))?"
)
# The line of a dry run that names an entry begins with this.
_ENTRY = "entry: "

Show = Callable[[Progress], None] | None
Missing = Callable[[Snapshot], list[bytes]]


@dataclass(frozen=True)
class Chosen:
    """What is to be given back: a snapshot, the paths in it, and which of its files are damaged."""

    snapshot: Snapshot
    sources: tuple[str, ...]
    damaged: tuple[bytes, ...] = ()

    def whole(self) -> None:
        """Raise NotNowError when the snapshot expired meanwhile: it may have been read half deleted.

        An expiring snapshot loses its name before its first file, so one that bears it is whole.
        """
        if not self.snapshot.path.is_dir():
            raise NotNowError(
                f"{self.snapshot.path} expired while it was read",
                "What was written is not complete; try again",
            )


@dataclass(frozen=True)
class Options:
    """How a restore is done; see the command."""

    overwrite: bool = False
    checksum: bool = False
    """Whether files that are already there are compared by content, not by size and time."""
    dry_run: bool = False
    check: bool = False
    on_progress: Show = None
    on_entry: Callable[[str], None] | None = None
    """Gets each entry of a dry run, as rsync shows it."""


@dataclass(frozen=True)
class Outcome:
    """What a restore did; sizes in bytes. `written` files were not there yet or differed."""

    snapshot: str
    place: str
    files: int
    bytes: int
    written: int
    written_bytes: int
    dry_run: bool = False
    checked: bool = False
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """What is not as in the snapshot: damaged on the backup disk, or found by the check."""

    @property
    def sentence(self) -> str:
        """Return it for a person."""
        would, checked = "would be " if self.dry_run else "", ", compared and equal" if self.checked else ""
        counts = f"{self.files} entries, {self.bytes} bytes"
        return (
            f"{counts} {would}restored from {self.snapshot} to {self.place}{'' if self.faults else checked}"
        )


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


def restore(config: Config, chosen: Chosen, to: Path, options: Options) -> Outcome:
    """Copy what was chosen into a directory of this machine."""
    _check_target(config, chosen, to, options)
    if not options.dry_run:
        to.mkdir(parents=True, exist_ok=True)
    made = _copy(chosen, f"{to.resolve()}/", {}, options)
    notes = made.notes
    if os.geteuid() != 0:
        notes += ("owners are not kept, for only root may give files away",)
    made = dataclasses.replace(made, place=str(to), notes=notes)
    if not options.check or options.dry_run:
        return made
    done = process.run(["sync", "--file-system", str(to)], timeout=LONG)
    if done.code != 0:
        raise FlashbackError(f"{to} cannot be synced: {' '.join(done.stderr.split())}")
    found = tuple(_faults(chosen, to))
    chosen.whole()
    return dataclasses.replace(made, checked=True, faults=made.faults + found)


def send(config: Config, chosen: Chosen, job: Job, folder: str, options: Options) -> Outcome:
    """Copy what was chosen to another machine, over ssh with the key for restores.

    Files that are there already stay as they are, unless they are to be overwritten.
    """
    if not config.restore_key.exists():
        raise FlashbackError(
            f"There is no key for restores at {config.restore_key}",
            f"Make one with `ssh-keygen -t ed25519 -f {config.restore_key}` and allow it on the client",
        )
    found = reach.look(job, config.known_hosts)
    if found.kind in (reach.Kind.AWAY, reach.Kind.SLOW_PATH):
        raise NotNowError(f"{job.host} cannot be reached: {found.reason}")
    if found.kind is not reach.Kind.REACHABLE:
        raise FlashbackError(f"{job.host} cannot be trusted: {found.reason}")
    address = f"[{found.address}]" if ":" in found.address else found.address
    env = {"RSYNC_RSH": transfer.shell(config, job, config.restore_key)}
    made = _copy(chosen, f"{job.user}@{address}:{folder.rstrip('/')}/", env, options, _allowed(config, job))
    notes = made.notes
    if not options.overwrite:
        notes += ("files that were there already were left as they are; --overwrite replaces them",)
    if job.user != "root":
        notes += (f"owners are kept only as far as {job.user} may set them",)
    return dataclasses.replace(made, place=f"{job.host}:{folder}", notes=notes)


def machine(config: Config, text: str, port: int | None = None) -> tuple[Job, str | None]:
    """Return a machine and the folder on it from NAME, NAME:/folder or user@host:/folder.

    A name of the configuration stands for that client, with its addresses.
    """
    read = _PLACE.fullmatch(text)
    if read is None:
        raise UsageError(f"{text} is no machine", "Write the name of a client, or user@host:/folder")
    host = read["host"].strip("[]")
    job = next((job for job in config.jobs if job.host == host), None)
    if job is None and read["folder"] is None:
        known = ", ".join(sorted({job.host for job in config.jobs}))
        raise UsageError(f"No client is called {host}", f"Known are {known}; others are user@host:/folder")
    if job is None:
        job = Job(host, "-", "-", source="/", addresses=(host,))
    user = read["user"] or job.user
    job = dataclasses.replace(
        job, user=user, port=port or job.port, local=False, source="/", only_networks=(), max_rtt_ms=None
    )
    return job, read["folder"]


def origin(config: Config, target: str) -> str:
    """Return the folder on the client from which a volume came."""
    host, volume = target.strip("/").split("/")[:2]
    found = next((each.source for each in config.jobs if (each.host, each.volume) == (host, volume)), None)
    if found is None or transfer.is_pattern(found) or found.startswith("rsync://"):
        raise UsageError(f"Where {host}/{volume} came from is not known", "Name the folder with --into")
    return found


def choose(
    config: Config, target: str, paths: Sequence[str], name: str, missing: Missing | None = None
) -> Chosen:
    """Return the snapshot that is meant, and the paths in it; refuse what is not there."""
    disk.require(config)
    snapshot = pick(config, target, name)
    lost = missing(snapshot) if missing is not None else damaged(config, snapshot)
    sources = tuple(_inside(snapshot.path, path, lost) for path in paths) or (".",)
    beneath = [each for each in lost if any(_holds(source, each) for source in sources)]
    return Chosen(snapshot, sources, tuple(sorted(beneath)))


def damaged(config: Config, snapshot: Snapshot) -> list[bytes]:
    """Return the paths in a snapshot that are known to be damaged and could not be healed.

    Such a file either lost its name there, or the disk cannot read it. The list is opened for reading only.
    """
    place = config.data_dir / disk.META / "verify.db"
    if not place.is_file():
        return []
    from flashback.ledger import Ledger  # noqa: PLC0415 - the daemon has no need of it here

    host, volume, label = snapshot.path.parent.relative_to(config.data_dir).parts
    try:
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            found = [each for each in Ledger(db).damage() if (each.host, each.volume) == (host, volume)]
    except sqlite3.Error as error:
        raise FlashbackError(
            f"The list of damaged files cannot be read: {error}", "`flashback damage` sets a broken one aside"
        ) from None
    own = (label, snapshot.path.name)
    return [place.path for each in found for place in each.places if (place.label, place.snapshot) == own]


def _holds(source: str, path: bytes) -> bool:
    return source == "." or path == os.fsencode(source) or path.startswith(os.fsencode(source) + b"/")


def _copy(
    chosen: Chosen, place: str, env: dict[str, str], options: Options, allowed: str | None = None
) -> Outcome:
    # With --relative a path keeps its directories: `etc/hosts` becomes TO/etc/hosts.
    # A client's rrsync lets no window for times through; files of one size and second count as equal there.
    argv = ["rsync", *(transfer.EVERYTHING if env else transfer.KEEP_ALL), *transfer.attribute_filters()]
    argv += ["--relative", "--no-h"]
    if env and not options.overwrite:
        argv.append("--ignore-existing")
    if options.checksum:
        argv.append("--checksum")
    if options.dry_run:
        argv += ["--dry-run", "--info=stats2", f"--out-format={_ENTRY}%n%L"]
    else:
        argv.append("--info=progress2,stats2")
    argv += ["--", *(f"./{source}" if source != "." else "./" for source in chosen.sources), place]
    done = process.run(argv, cwd=chosen.snapshot.path, timeout=LONG, env=env, on_output=_listener(options))
    if done.code != 0:
        raise _failure(done, allowed)
    chosen.whole()
    lost = tuple(f"damaged on the backup disk: {shown(each)}" for each in chosen.damaged)
    files, size, written, written_size = (_figure(done.stdout, words) for words in _FIGURES)
    figures = (files, size, written, written_size)
    return Outcome(str(chosen.snapshot.path), place, *figures, options.dry_run, faults=lost)


_FIGURES = (
    "Number of files",
    "Total file size",
    "Number of regular files transferred",
    "Total transferred file size",
)


def _figure(text: str, name: str) -> int:
    found = re.search(rf"^{name}: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _listener(options: Options) -> Callable[[str], None] | None:
    if not options.dry_run:
        return transfer.Meter(options.on_progress).feed if options.on_progress else None
    if options.on_entry is None:
        return None
    rest, tell = "", options.on_entry

    def feed(text: str) -> None:
        nonlocal rest
        # rsync shows a line break in a name by its number.
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            if line.startswith(_ENTRY):
                tell(line.removeprefix(_ENTRY))

    return feed


def _failure(done: process.Finished, allowed: str | None) -> FlashbackError:
    note = transfer.judge(done.code, done.stderr, done.timed_out).note or "some files vanished"
    # Not a byte came: the other side does not let this key in, or not to write.
    shut = done.code == 255 or "(0 bytes received so far)" in done.stderr or "rrsync" in done.stderr
    hint = allowed if allowed and shut else "What was restored stays in place"
    return FlashbackError(f"The restore is not complete: {note}", hint)


def _allowed(config: Config, job: Job) -> str:
    """Return the hint with the line that lets the key for restores in."""
    public = config.restore_key.with_name(f"{config.restore_key.name}.pub")
    line = public.read_text(encoding="utf-8").strip() if public.exists() else "ssh-ed25519 ..."
    allowed = f'restrict,command="rrsync -wo /" {line}'
    return f"May the key write there? In authorized_keys of {job.user}: {allowed}"


def _faults(chosen: Chosen, to: Path) -> Iterator[str]:
    from flashback import diff  # noqa: PLC0415 - only a check needs it

    damaged = set(chosen.damaged)
    for source in chosen.sources:
        for each in diff.faults(str(chosen.snapshot.path), str(to.resolve()), source):
            path = os.fsencode(each.path)
            # What was already said is not said twice.
            if path not in damaged:
                yield f"{'missing' if each.kind == 'removed' else each.what + ' differs'}: {shown(path)}"


def shown(path: bytes) -> str:
    """Return a path on one line: bytes that are no printable text are written as `\\xNN`."""
    from flashback.ledger import shown as visible  # noqa: PLC0415 - as above

    return visible(path)


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


def refuse_backup_disk(config: Config, folder: Path) -> None:
    """Refuse a folder that lies on the backup disk, by its name, a link or another mount."""
    if folder.resolve().is_relative_to(config.data_dir.resolve()):
        raise UsageError(
            f"{folder} is on the backup disk", "Snapshots are never written to; name another directory"
        )
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if existing.stat().st_dev == config.data_dir.stat().st_dev and os.path.ismount(config.data_dir):
        raise UsageError(f"{folder} is on the backup disk", "Name a directory on another disk")


def _check_target(config: Config, chosen: Chosen, to: Path, options: Options) -> None:
    refuse_backup_disk(config, to)
    if config.data_dir.resolve().is_relative_to(to.resolve()):
        below = config.data_dir.resolve().relative_to(to.resolve())
        # A snapshot of this very machine holds the mount point of its backup disk.
        if (
            any(_meet(source, str(below)) for source in chosen.sources)
            and (chosen.snapshot.path / below).exists()
        ):
            raise UsageError(
                f"The restore to {to} would reach {config.data_dir}, the backup disk",
                "Name the paths that are wanted, or another directory",
            )
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is not a directory")
    if to.is_dir() and any(to.iterdir()) and not options.overwrite:
        raise UsageError(f"{to} is not empty", "Name an empty directory, or use --overwrite")


def _meet(one: str, other: str) -> bool:
    """Return whether one of two relative paths holds the other."""
    if "." in (one, other):
        return True
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)
