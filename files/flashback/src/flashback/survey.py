"""Find out what changed at a source without looking at the snapshots.

The source is listed by rsync's own dry run, sorted, and compared with the listing of the newest snapshot:
both as text, by programs that need little memory.  What a listing cannot show is looked at all the same or
found by the next full comparison:

- A change within the second of the listing, or in the future: such entries are in doubt, see below.
- Names exchanged within a second: the entries of a changed folder for which that is possible are looked at.
- Attributes and access control lists: an entry that has some is always looked at.  One that gets its first
  without a change of mode is found by the full comparison.

After the transfer all that was looked at is compared with what is stored.  What is not as listed is in
doubt: its line is written in a form that equals no other.  The sacred rule: a line without doubt was seen in
the snapshot.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from flashback import below, process, transfer
from flashback.errors import FlashbackError
from flashback.guard import Totals
from flashback.listing import Comparison, Item, Sorted, UnclearError, compare, doubted, parse
from flashback.model import Changes, Config, Job, Pulse, Snapshot, iso, moment
from flashback.shelf import IDLE, MADE, Known, Shelf, differing
from flashback.transfer import Transferred

# Folders have another size on every file system; the rest only makes lines longer.
SHORTEN = ("-e", r"s/\tcd+++++++++[0-9]*$/\td/", "-e", "s/+++++++++//")
# rsync lists everything as new below a folder that is not there.
ABSENT = "absent"
# Options whose effect a listing does not show.
NOT_LISTED = ("--checksum", "--iconv", "--prune-empty-dirs")
# More differing entries than this are fetched by comparing everything: memory is small.
MOST = 30_000
MOST_SHARE = 0.3
FEW = 1000
# Two clocks that are both right may differ by this much.
SKEW = timedelta(seconds=3)
# Memory of sort; what is more goes through files, on the backup disk.
SORTING = "8M"
LONG = 86400.0


@dataclass(frozen=True)
class Survey:
    """What differs at the source, and what it is compared with."""

    comparison: Comparison
    newest: Snapshot
    known: Known
    special: frozenset[bytes]
    started: datetime
    received: int
    """Bytes that the listing cost on the wire."""


def recipe(job: Job) -> str:
    """Return what changes whenever a job is fetched in another way, so that nothing stored is relied upon."""
    return json.dumps(transfer.command(job, "", "", ()))


def obstacle(  # noqa: PLR0911 - one line for each answer
    job: Job, shelf: Shelf, newest: Snapshot | None, now: datetime
) -> str:
    """Return why everything has to be compared this time, or nothing."""
    if job.detect == "full":
        return "the job says so (detect)"
    if newest is None:
        return "it is the first backup"
    if job.accept_partial or transfer.is_pattern(job.source):
        return "the source is a pattern, or may be read in part only"
    if any(option.partition("=")[0] in NOT_LISTED for option in job.rsync_options):
        return "a listing does not show what rsync_options ask for"
    known = shelf.known(newest.name)
    if known is None or not shelf.has_listing(newest.name):
        return f"there is no listing of {newest.name}"
    if known.recipe != recipe(job):
        return "the job's settings have changed"
    age = now - moment(known.full_at)
    if not timedelta(0) <= age + SKEW or age >= timedelta(seconds=job.full_every):
        return f"everything was compared last at {known.full_at} (full_every)"
    return ""


def take(
    config: Config,
    job: Job,
    address: str,
    newest: Snapshot,
    *,
    now: datetime,
    pulse: Pulse,
    above: bool = False,
    shared: Path | None = None,
) -> Survey:
    """List the source and return what differs, with `above` together with the folders above it.

    Raises UnclearError when everything has to be compared.
    """
    shelf = Shelf(config.data_dir, job)
    known = shelf.known(newest.name)
    assert known is not None  # noqa: S101 - `obstacle` has looked
    fresh, difference = shelf.fresh("txt"), shelf.fresh("difference")
    env = {} if job.local else {"RSYNC_RSH": transfer.shell(config, job, shared=shared)}
    argv = ["rsync", *transfer.listing(job), "--", *transfer.sources(job, address), f"{ABSENT}/"]
    _list(argv, fresh, pulse, env, job)
    special = shelf.special(newest.name)
    differing(shelf.text(newest.name), fresh, difference, pulse)
    made = compare(difference, shelf.text(newest.name), fresh, special, _limit(known), above=above)
    with Sorted(fresh) as listed:
        received = listed.figure(transfer.arrived(job))
    return Survey(made, newest, known, special, now, received)


def _limit(known: Known) -> int:
    return max(FEW, min(MOST, int(known.entries * MOST_SHARE)))


def _list(argv: list[str], target: Path, pulse: Pulse, env: dict[str, str], job: Job | None = None) -> None:
    """Write a sorted listing; raise UnclearError when it is not whole."""
    commands = [
        process.tied(argv),
        ["sed", *SHORTEN],
        ["sort", "-S", SORTING, "-T", str(target.parent)],
    ]
    done = process.pipeline(
        commands,
        target,
        pulse=pulse,
        timeout=job.timeout if job else LONG,
        stall=job.stall_timeout if job else None,
        cwd=target.parent,
        env={**env, "TZ": "UTC"},
    )
    listed = done[0]
    verdict = transfer.judge(listed.code, listed.stderr, listed.timed_out)
    if listed.stalled or not verdict.complete:
        raise UnclearError(f"the source cannot be listed: {verdict.note or 'nothing moved'}")
    for each, name in zip(done[1:], ("sed", "sort"), strict=True):
        if each.code != 0:
            raise UnclearError(f"{name} failed: {' '.join(each.stderr.split())[-300:]}")


# --- after the transfer ------------------------------------------------------------------------------------


def figures(survey: Survey) -> tuple[Changes, Totals, int]:
    """Return how the new tree differs from the newest snapshot, its totals, and the number of its entries."""
    known = survey.known
    return survey.comparison.changes(Totals(known.files, known.bytes), known.entries)


def totals(survey: Survey, done: Transferred) -> Transferred:
    """Return the figures of a transfer as if everything had been compared."""
    found, after, entries = figures(survey)
    return replace(
        done,
        files=entries,
        bytes=after.bytes,
        bytes_transferred=done.bytes_transferred + survey.received,
        regular=after.files,
        changed=after.files - min(after.files, found.kept),
        changed_bytes=max(0, after.bytes - found.kept_bytes),
    )


def require(config: Config, job: Job, survey: Survey) -> None:
    """Refuse to go on when a stored file was mended meanwhile: the new tree may hold the bad one."""
    if not Shelf(config.data_dir, job).has_listing(survey.newest.name):
        raise FlashbackError(
            f"A damaged file of {job.host}/{job.volume} was mended during the backup",
            "The next pass compares every entry",
        )


def remember(config: Config, job: Job, snapshot: Snapshot, survey: Survey | None, started: datetime) -> None:
    """Let the next backup know what this one stored, now that it is complete."""
    shelf = Shelf(config.data_dir, job)
    if survey is None:
        shelf.begin(snapshot.name, recipe(job), iso(started) or "")
    else:
        shelf.put(snapshot.name)


def settle(config: Config, job: Job, survey: Survey, tree: Path) -> int:
    """Compare what was looked at with the filled tree, and make the listing ready for its commit.

    Returns how many of the listed files are not there.
    """
    shelf, made = Shelf(config.data_dir, job), survey.comparison
    threshold = _as_listed(survey.started - SKEW)
    missing, doubts, special = 0, set[bytes](), set(survey.special) - made.old.keys() - made.new.keys()
    inodes: dict[int, set[bytes]] = {}
    groups: dict[bytes, set[bytes]] = {}
    with below.opened(tree) as top:
        for name, item in made.new.items():
            status = below.status_of(top, name)
            if status is None or not _is_as_listed(top, item, status) or item.mtime >= threshold:
                doubts.add(name)
            missing += status is None and item.kind == "f"
            if status is not None and item.kind != "d":
                inodes.setdefault(status.st_ino, set()).add(name)
                groups.setdefault(item.first or name, set()).add(name)
            if status is not None and below.has_attributes(top, name):
                special.add(name)
    doubts |= _recent(made, survey.started, soon=_soon(shelf, survey.newest))
    # Names are one file here exactly if they are one file there; in doubt about one all are in doubt.
    there = set(map(frozenset, groups.values()))
    for names in [*inodes.values(), *groups.values()]:
        if frozenset(names) not in there or names & doubts:
            doubts |= names
    if doubts:
        _write_doubts(shelf, doubts)
    _, after, entries = figures(survey)
    known, base = survey.known, survey.newest.name
    shelf.describe(
        Known(known.recipe, known.full_at, entries, after.files, after.bytes, base),
        special,
        made.old.keys() | made.new.keys(),
    )
    return missing


def _since(times: Iterable[bytes], started: datetime) -> bytes:
    """Return from which of these times on entries are in doubt: they may have changed while they were listed.

    Whatever the clock of the client says, that goes for the last ones before the listing began, too.
    """
    begun = _as_listed(started - SKEW)
    last = max((time for time in times if time < begun), default=None)
    try:
        return begun if last is None else _as_listed(_moment(last) - SKEW)
    except (ValueError, OverflowError):
        # No calendar knows it.
        return begun


def _soon(shelf: Shelf, newest: Snapshot) -> bool:
    """Return whether the second in which the last listing was made may not have been over for this one."""
    last, now = (path.stat().st_mtime for path in (shelf.text(newest.name), shelf.fresh("txt")))
    return now - last < SKEW.total_seconds()


def _recent(made: Comparison, started: datetime, *, soon: bool) -> set[bytes]:
    """Return what changed last; `soon` after the last listing, what was in doubt then is so still."""
    changed = [
        item
        for name, item in made.new.items()
        if name not in made.old or made.old[name].content != item.content or (soon and made.old[name].doubt)
    ]
    threshold = _since((item.mtime for item in changed), started)
    return {item.name for item in changed if item.mtime >= threshold}


def _write_doubts(shelf: Shelf, doubts: set[bytes]) -> None:
    fresh, doubting = shelf.fresh("txt"), shelf.fresh("doubting")
    with Sorted(fresh) as listed, doubting.open("wb") as target:
        listed.doubting(doubts, target)
    doubting.rename(fresh)


def _is_as_listed(top: int, item: Item, status: os.stat_result) -> bool:
    mode = stat.filemode(status.st_mode)
    kinds = {"-": "f", "d": "d", "l": "L", "c": "D", "b": "D"}
    if kinds.get(mode[0], "S") != item.kind or mode[1:].encode() != item.mode:
        return False
    owner = (b"%d" % status.st_uid, b"%d" % status.st_gid)
    if owner != item.owner or _second(status.st_mtime_ns) != item.mtime:
        return False
    if item.kind == "f" and status.st_size != item.size:
        return False
    if item.target is None:
        return True
    return os.readlink(item.name, dir_fd=top) == item.target


def _second(nanoseconds: int) -> bytes:
    """Return a time of a file as a listing has it; nothing for one that no calendar knows."""
    try:
        return _as_listed(datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc))
    except (OverflowError, ValueError, OSError):
        return b""


def _as_listed(at: datetime) -> bytes:
    return at.astimezone(timezone.utc).strftime("%Y/%m/%d-%H:%M:%S").encode()


def _moment(text: bytes) -> datetime:
    return datetime.strptime(text.decode(), "%Y/%m/%d-%H:%M:%S").replace(tzinfo=timezone.utc)


# --- after a full comparison, between the backups ----------------------------------------------------------


def missing(config: Config, job: Job, snapshots: list[Snapshot]) -> Snapshot | None:
    """Return the newest snapshot when its listing is still to be made."""
    shelf = Shelf(config.data_dir, job)
    newest = snapshots[-1] if snapshots else None
    if newest is None or shelf.has_listing(newest.name) or shelf.begun(newest.name) is None:
        return None
    return newest


def describe(config: Config, job: Job, snapshot: Snapshot, pulse: Pulse) -> int:
    """Make the listing of a snapshot from the snapshot itself; return the number of its entries."""
    shelf = Shelf(config.data_dir, job, IDLE)
    begun = shelf.begun(snapshot.name)
    if begun is None:
        raise FlashbackError(f"How {snapshot.path} was fetched is not known")
    used, started = begun
    fresh, raw = shelf.fresh("described"), shelf.fresh("txt")
    _list(["rsync", *transfer.LISTING, "--", f"{snapshot.path}/", f"{ABSENT}/"], fresh, pulse, {})
    with fresh.open("rb") as source:
        threshold = _since((item.mtime for item in filter(None, map(parse, source))), moment(started))
    entries = files = size = 0
    with fresh.open("rb") as source, raw.open("wb") as target:
        for line in source:
            item = parse(line)
            if item is None:
                target.write(line)
                continue
            entries += 1
            files += item.kind == "f"
            size += item.size if item.kind == "f" else 0
            target.write(doubted(line) if item.mtime >= threshold else line)
    fresh.unlink()
    shelf.describe(Known(used, started, entries, files, size), _special(snapshot.path, pulse))
    for kind in MADE:
        _sync(shelf.fresh(kind))
    shelf.put(snapshot.name)
    return entries


def _special(top: Path, pulse: Pulse) -> Iterator[bytes]:
    """Yield the names of a tree that have attributes."""
    with below.opened(top) as tree:
        if below.has_attributes(tree, b"."):
            yield b"."
        yield from (path for path, _ in below.entries(top, pulse) if below.has_attributes(tree, path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
