"""Give files back: copy what was chosen to a directory of this machine or to another machine.

An rsync from one complete snapshot.  What is known to be damaged, or could not be read, is named and
never passed over.  The sacred rule: nothing is ever written to the backup disk, and it holds for
targets reached by a link or a mount too; and nothing is ever deleted at the target.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from flashback import picking, process, reach, transfer
from flashback.beside import whole
from flashback.errors import FlashbackError, NotNowError, UsageError
from flashback.model import Config, Job, Progress
from flashback.picking import Chosen

LONG = 7 * 86400.0
# A restore of at most so many entries and bytes is checked without being told to: seconds even on a plug.
CHEAP_ENTRIES = 1000
CHEAP_BYTES = 32_000_000
# Faults that are kept; of more only the first matter.
KEPT = 1000
# user@host:/folder, with an IPv6 address in brackets. What begins with a dash would be an option of ssh.
_PLACE = re.compile(
    r"(?:(?P<user>[A-Za-z_][\w.-]*)@)?(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<folder>/.*))?"
)
# The line of a run of rsync that names an entry begins with this.
_ENTRY = "entry: "
# rsync gives up where a path with that of the snapshot before it is longer than 4096 bytes; tar does not.
_TOO_LONG = "File name too long"
_TOO_DEEP = "what lies too deep for rsync can be had with --as tar"
# rsync's own last line only repeats the exit status.
_SUMMARY = "rsync error:"
# rsync(1), EXIT VALUES: an error in reading or writing a file.
_FILE_IO = 11
# rsync(1), --itemize-changes: where each of these letters stands.
_ITEMS = (
    (2, "c", "content"),
    (3, "s", "content"),
    (4, "t", "time"),
    (5, "p", "mode"),
    (6, "o", "owner"),
    (7, "g", "owner"),
    (9, "a", "xattr"),
    (10, "x", "xattr"),
)

Show = Callable[[Progress], None] | None


@dataclass(frozen=True)
class Options:
    """How a restore is done; see the command."""

    overwrite: bool = False
    checksum: bool = False
    """Whether files that are already there are compared by content, not by size and time."""
    dry_run: bool = False
    check: bool | None = None
    """Whether what was restored is compared afterwards; None is yes when that is cheap."""
    on_progress: Show = None
    on_entry: Callable[[str], None] | None = None
    """Gets each entry of a dry run, as rsync shows it."""

    def checks(self, made: Outcome) -> bool:
        """Return whether this restore is to be checked."""
        cheap = made.files <= CHEAP_ENTRIES and made.bytes <= CHEAP_BYTES
        return not self.dry_run and (cheap if self.check is None else self.check)


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
    """What is not as in the snapshot: damaged on the backup disk, not readable, or found by the check."""

    @property
    def sentence(self) -> str:
        """Return it for a person."""
        would = "would be " if self.dry_run else ""
        checked = ", compared and equal" if self.checked and not self.faults else ""
        counts = f"{self.files} entries, {self.bytes} bytes"
        return f"{counts} {would}restored from {self.snapshot} to {self.place}{checked}"


def restore(config: Config, chosen: Chosen, to: Path, options: Options) -> Outcome:
    """Copy what was chosen into a directory of this machine."""
    _check_target(config, chosen, to, options)
    if not options.dry_run:
        to.mkdir(parents=True, exist_ok=True)
    made = dataclasses.replace(_copy(chosen, f"{to.resolve()}/", {}, options), place=str(to))
    owners = os.geteuid() == 0
    if not owners:
        made = _noted(made, "owners are not kept, for only root may give files away")
    if not options.checks(made):
        return made
    # What is compared is to come from the disk.
    done = process.run(["sync", "--file-system", str(to)], timeout=LONG)
    if done.code != 0:
        raise FlashbackError(f"{to} cannot be synced: {' '.join(done.stderr.split())}")
    from flashback import proof  # noqa: PLC0415 - only a check needs it

    try:
        return _checked(made, proof.faults(config, chosen, to.resolve(), owners=owners))
    except FlashbackError as error:
        raise type(error)(f"{made.sentence}, but not checked: {error.what}", error.hint) from None


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
    place, env = (
        f"{job.user}@{address}:{folder.rstrip('/')}/",
        {"RSYNC_RSH": transfer.shell(config, job, config.restore_key)},
    )
    made = _copy(chosen, place, env, options, _allowed(config, job))
    made = dataclasses.replace(made, place=f"{job.host}:{folder}")
    if not options.overwrite:
        made = _noted(made, "files that were there already were left as they are; --overwrite replaces them")
    if job.user != "root":
        made = _noted(made, f"owners are kept only as far as {job.user} may set them")
    # Without overwriting, what was left as it was is no fault: then only a check that was asked for tells.
    if options.checks(made) and (options.check or options.overwrite):
        return _checked(made, _differing_there(chosen, place, env))
    return made


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


def refuse_backup_disk(config: Config, folder: Path) -> None:
    """Refuse a folder that lies on the backup disk, by its name, a link or another mount."""
    if folder.resolve().is_relative_to(config.data_dir.resolve()):
        raise UsageError(
            f"{folder} is on the backup disk", "Snapshots are never written to; name another directory"
        )
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if existing.stat().st_dev == config.data_dir.stat().st_dev and os.path.ismount(config.data_dir):
        raise UsageError(f"{folder} is on the backup disk", "Name a directory on another disk")


# --- rsync -------------------------------------------------------------------------------------------------


def _copy(
    chosen: Chosen, place: str, env: dict[str, str], options: Options, allowed: str | None = None
) -> Outcome:
    """Run the copying rsync; without an environment for ssh it copies on this machine."""
    words = ["--ignore-existing"] if env and not options.overwrite else []
    words += ["--checksum"] if options.checksum else []
    listen = None
    if options.dry_run:
        words += ["--dry-run", "--info=stats2", f"--out-format={_ENTRY}%n%L"]
        listen = _entries(options.on_entry) if options.on_entry else None
    else:
        words.append("--info=progress2,stats2")
        listen = transfer.Meter(options.on_progress).feed if options.on_progress else None
    done = _rsync(chosen, place, env, words, listen)
    if done.code not in (0, transfer.PARTIAL):
        raise _failure(done, allowed)
    whole(chosen.snapshot.path)
    # What could not be read or written is named by rsync; the rest has come back.
    amiss = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(_SUMMARY)]
    if done.code and not amiss:
        raise _failure(done, allowed)
    files, size, written, written_size = (_figure(done.stdout, words) for words in _FIGURES)
    return Outcome(
        str(chosen.snapshot.path),
        place,
        files,
        size,
        written,
        written_size,
        dry_run=options.dry_run,
        notes=(*chosen.notes, *([_TOO_DEEP] if any(_TOO_LONG in each for each in amiss) else [])),
        faults=(*chosen.faults, *amiss),
    )


def _rsync(
    chosen: Chosen,
    place: str,
    env: dict[str, str],
    words: Sequence[str],
    listen: Callable[[str], None] | None,
) -> process.Finished:
    # With --relative a path keeps its directories: `etc/hosts` becomes TO/etc/hosts.
    # A client's rrsync lets no window for times through; files of one size and second count as equal there.
    argv = ["rsync", *(transfer.EVERYTHING if env else transfer.KEEP_ALL), *transfer.attribute_filters()]
    argv += ["--relative", "--no-h", *words, "--"]
    argv += [f"./{source}" if source != "." else "./" for source in chosen.sources]
    return process.run([*argv, place], cwd=chosen.snapshot.path, timeout=LONG, env=env, on_output=listen)


_FIGURES = (
    "Number of files",
    "Total file size",
    "Number of regular files transferred",
    "Total transferred file size",
)


def _figure(text: str, name: str) -> int:
    found = re.search(rf"^{name}: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _entries(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Return what takes rsync's output in pieces and tells each entry that it names."""
    rest = ""

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
    hint = "What was restored stays in place"
    # Not a byte came: the other side does not let this key in, or not to write.
    shut = done.code == 255 or "(0 bytes received so far)" in done.stderr or "rrsync" in done.stderr
    if allowed and shut:
        hint = allowed
    elif done.code == _FILE_IO:
        # What the other side says of it does not always arrive.
        hint = f"Its disk may be full; {hint[0].lower()}{hint[1:]}"
    return FlashbackError(f"The restore is not complete: {note}", hint)


def _allowed(config: Config, job: Job) -> str:
    """Return the hint with the line that lets the key for restores in."""
    public = config.restore_key.with_name(f"{config.restore_key.name}.pub")
    line = public.read_text(encoding="utf-8").strip() if public.exists() else "ssh-ed25519 ..."
    allowed = f'restrict,command="rrsync -wo /" {line}'
    return f"May the key write there? In authorized_keys of {job.user}: {allowed}"


# --- the check ---------------------------------------------------------------------------------------------


def _noted(made: Outcome, note: str) -> Outcome:
    return dataclasses.replace(made, notes=(*made.notes, note))


def _checked(made: Outcome, found: Iterable[str]) -> Outcome:
    """Add what a check found; what was already said is said once."""
    rest = iter(found)
    faults = [each for each in islice(rest, KEPT) if each not in made.faults]
    more = sum(1 for _ in rest)
    faults += [f"and {more} more"] if more else []
    return dataclasses.replace(made, checked=True, faults=(*made.faults, *faults))


def _differing_there(chosen: Chosen, place: str, env: dict[str, str]) -> list[str]:
    """Return how the copy on another machine differs: rsync's checksums tell, and nothing is written."""
    found: list[str] = []

    def tell(line: str) -> None:
        items, name = line.split(" ", 1)
        words = dict.fromkeys(word for at, letter, word in _ITEMS if items[at : at + 1].lower() == letter)
        found.append(f"{', '.join(words)} differs: {name}" if words else f"missing: {name}")

    words = ["--dry-run", "--checksum", f"--out-format={_ENTRY}%i %n"]
    done = _rsync(chosen, place, env, words, _entries(tell))
    if done.code not in (0, transfer.PARTIAL):
        note = transfer.judge(done.code, done.stderr, done.timed_out).note
        raise FlashbackError(f"Restored, but not checked: {note}")
    whole(chosen.snapshot.path)
    return found


# --- the target --------------------------------------------------------------------------------------------


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
    return picking.holds(one, other) or picking.holds(other, one)
