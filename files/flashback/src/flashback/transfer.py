"""Build rsync's command, run it, read its progress, judge its exit code.

This module does not know where a snapshot lives or what becomes of it: it fills the
directory it is given.  Never through a shell.  The sacred rule: rsync only ever writes
into a fresh, empty directory; into one that already holds links it would change the mode
of files that older snapshots share.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flashback import process
from flashback.errors import NotNowError
from flashback.listing import FORMAT
from flashback.model import Config, Destination, Job, Progress, Pulse

# Options of a person that choose files; their place among the others decides.
FILTERS = ("--exclude", "--include", "--filter")
# Some files could not be read or written.
PARTIAL = 23
# Seconds without a byte from the other side after which rsync gives up.
SILENCE = 600

# Links, ACLs, attributes, holes and owners by number. By itself rsync compares times by whole seconds: a file
# that changed within a second and kept its size would be missed, and a directory could keep the time at which
# it was filled.
EVERYTHING = ("-aHAXS", "--numeric-ids")
KEEP_ALL = (*EVERYTHING, "--modify-window=-1")
# Attributes and holes cannot be listed.
LISTING = (
    "--dry-run", "-aH", "--numeric-ids", "--8-bit-output", f"--out-format={FORMAT}",
    "--no-h", "--info=stats2",
)  # fmt: skip

_PROGRESS = re.compile(
    r"(?P<bytes>\d+)\s+(?P<percent>\d+)%\s+(?P<rate>[\d.]+)(?P<unit>[kMGT]?)B/s"
    r"(?:\s+\S+\s+\(xfr#\d+, (?:to|ir)-chk=(?P<left>\d+)/(?P<all>\d+)\))?"
)
# The kernel lets only CAP_SYS_ADMIN set these. Without it rsync would report every such file as failed, so
# they are left out. As soon as a filter for attributes is given rsync no longer skips system.* by itself.
_SYS_ADMIN = 21
# `sr` makes a rule count on both sides: --delete-excluded would leave it to the sender alone.
_SETTABLE = ("+xsr security.capability", "-xsr security.*", "-xsr trusted.*", "-xsr system.*")
# xfs shows root the access control lists as attributes too; rsync would take them for strangers.
_NEVER = ("-xsr trusted.SGI_ACL_*", "-xsr system.*")
ACCESS_CONTROL_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
# The source itself, not a file below it, could not be entered.
_NO_SOURCE = re.compile(r"^rsync: .*\b(?:change_dir|link_stat) .* failed", re.MULTILINE)
_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}

# What an old rsync answers to an option that it does not know.
_NOT_UNDERSTOOD = (1, 2, 4)
# The other side is not there any more.
LOST = (10, 12, 30, 35, 255)
# ... or says when a path was named that is not as it was listed.
NOT_BY_NAME = (*_NOT_UNDERSTOOD, 3, 11, PARTIAL)
# rsync(1), "EXIT VALUES"; 255 is ssh's own.
_MEANINGS = {
    1: "rsync was called wrongly",
    2: "the two rsyncs do not understand each other",
    3: "a path could not be selected",
    4: "the client's rsync lacks a needed feature",
    5: "the transfer could not be started",
    10: "the connection broke",
    11: "a file could not be read or written",
    12: "the connection broke in the middle of a message",
    13: "rsync could not report what went wrong",
    14: "rsync lost one of its own processes",
    20: "rsync was ended by a signal",
    21: "rsync lost one of its own processes",
    22: "there was not enough memory",
    23: "some files could not be transferred",
    25: "the limit of deletions was reached",
    30: f"nothing came for {SILENCE} seconds",
    35: "the connection took too long",
    127: "the client has no rsync",
    255: "ssh could not connect",
}


@dataclass(frozen=True)
class Verdict:
    """What an exit code means: whether the tree is complete, and what to say about it."""

    complete: bool
    note: str = ""


@dataclass(frozen=True)
class Transferred:
    """How a transfer ended, with its figures; sizes in bytes."""

    verdict: Verdict
    exit: int
    files: int = 0
    bytes: int = 0
    bytes_transferred: int = 0
    regular: int = 0
    """Regular files of the tree."""
    changed: int = 0
    """Those that were transferred, and their full size."""
    changed_bytes: int = 0


def judge(code: int, stderr: str = "", timed_out: bool = False) -> Verdict:
    """Return what rsync's exit code means for the snapshot. This is the only place that knows."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # rsync's own last line only repeats the code.
    said = [line for line in lines if not line.startswith("rsync error:")] or lines
    detail = "; ".join(said[-3:])
    if timed_out:
        return Verdict(False, "the job's timeout was reached")
    if code == 0:
        return Verdict(True)
    if code == 24:
        return Verdict(True, "some files vanished on the client while they were read")
    if code in _NOT_UNDERSTOOD:
        detail += "; `flashback probe` tells what the client's rsync lacks"
    meaning = f"rsync was ended by signal {-code}" if code < 0 else _MEANINGS.get(code, "rsync failed")
    return Verdict(False, f"{meaning} (rsync exit {code})" + (f": {detail}" if detail else ""))


def shell(config: Config, job: Job, key: Path | None = None, *, shared: Path | None = None) -> str:
    """Return the value of RSYNC_RSH."""
    return " ".join(_rsh_quoted(word) for word in ssh(config, job, key, shared=shared))


def ssh(config: Config, job: Job, key: Path | None = None, *, shared: Path | None = None) -> list[str]:
    """Return the call of an ssh that trusts one key, asks nothing and reads no one's settings.

    With `shared` it uses the connection of that socket while there is one.
    """
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _ssh_quoted(str(config.known_hosts)),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": job.host,
        "UpdateHostKeys": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "Compression": "no",
        "ConnectTimeout": "30",
        "ServerAliveInterval": "30",
        "ServerAliveCountMax": "6",
    }
    if config.ciphers:
        options["Ciphers"] = ",".join(config.ciphers)
    if shared:
        options["ControlPath"] = _ssh_quoted(str(shared).replace("%", "%%"))
    words = ["ssh", "-F", "none", "-p", str(job.port), "-i", str(key or config.ssh_key)]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return words


def sources(job: Job, address: str) -> list[str]:
    """Return rsync's source arguments.

    A slash at the end means the content of a folder.  With a pattern as its last part each match is a source
    of its own, with its name: locally they are looked up here, a client's own rsync looks up the others.
    """
    if job.source.startswith("rsync://"):
        return [job.source if is_pattern(job.source) else job.source.rstrip("/") + "/"]
    path = job.source if is_pattern(job.source) else job.source.rstrip("/") + "/"
    if job.local:
        if not is_pattern(job.source):
            return [path]
        parent, _, pattern = job.source.rpartition("/")
        return sorted(str(match) for match in Path(parent or "/").glob(pattern))
    host = f"[{address}]" if ":" in address else address
    return [f"{job.user}@{host}:{path}"]


def is_pattern(source: str) -> bool:
    """Return whether the last part of a source is a pattern."""
    return any(sign in source.rpartition("/")[2] for sign in "*?[")


def command(
    job: Job, address: str, target: str, options: Sequence[str], *, selected: bool = False
) -> list[str]:
    """Return the rsync call that fills `target`, a directory relative to the working directory.

    With `selected` the options name the entries to fetch, so that no pattern leaves out any more.
    """
    argv = ["rsync", *KEEP_ALL, "--super"]
    argv += attribute_filters()
    if job.one_file_system:
        argv.append("--one-file-system")
    if job.bandwidth_limit:
        argv.append(f"--bwlimit={job.bandwidth_limit}")
    argv += [f"--timeout={SILENCE}", "--no-h", "--info=progress2,stats2"]
    if job.whole_file:
        argv.append("--whole-file")
    argv += _size_limit(job) if selected else excluding(job)
    argv += [option for option in job.rsync_options if not option.startswith(FILTERS)]
    argv += options
    return [*argv, "--", *sources(job, address), f"{target}/"]


def listing(job: Job) -> list[str]:
    """Return the options with which rsync only says what a job would fetch into an absent folder."""
    options = [*LISTING, f"--timeout={SILENCE}"]
    if job.one_file_system:
        options.append("--one-file-system")
    options += excluding(job)
    return options + [option for option in job.rsync_options if not option.startswith(FILTERS)]


def _size_limit(job: Job) -> list[str]:
    return [f"--max-size={job.exclude_larger_than}"] if job.exclude_larger_than else []


def excluding(job: Job) -> list[str]:
    """Return the options that leave something out of a job, in the order in which rsync looks at them."""
    options = _size_limit(job)
    if job.exclude_file:
        options.append(f"--filter=dir-merge,- {job.exclude_file}")
    options += [f"--exclude={pattern}" for pattern in job.excludes]
    return options + [option for option in job.rsync_options if option.startswith(FILTERS)]


def attribute_filters() -> list[str]:
    """Return the options that keep rsync from attributes which it cannot or must not write."""
    return [f"--filter={rule}" for rule in _attribute_rules()]


def is_stored_attribute(name: str) -> bool:
    """Return whether a snapshot keeps an extended attribute of that name."""
    if name in ACCESS_CONTROL_LISTS:
        return True
    words = (rule.split(" ") for rule in _attribute_rules())
    return next((sign[0] == "+" for sign, pattern in words if fnmatch.fnmatchcase(name, pattern)), True)


@functools.cache
def _attribute_rules() -> tuple[str, ...]:
    return _NEVER if _may_set_all_attributes() else _SETTABLE


def fill(
    config: Config,
    job: Job,
    address: str,
    destination: Destination,
    *,
    pulse: Pulse,
    on_progress: Callable[[Progress], None],
    log: Callable[[str], None],
    lock: int | None = None,
    shared: Path | None = None,
) -> Transferred:
    """Fill a directory from a client: one run of rsync for each pass, until one is not complete."""
    done = None if destination.passes else Transferred(Verdict(True), 0)
    for options in destination.passes:
        if not sources(job, address):
            raise NotNowError(f"Nothing matches {job.source}", "Connect the medium, or mend the pattern")
        argv = command(job, address, destination.target, options, selected=destination.selected)
        env = {} if job.local else {"RSYNC_RSH": shell(config, job, shared=shared)}
        log(process.shown(argv, env, str(destination.where)))
        meter = Meter(on_progress)
        ended = process.run(
            process.tied(argv),
            pulse=pulse,
            timeout=job.timeout,
            stall=job.stall_timeout,
            cwd=destination.where,
            env=env,
            on_output=meter.feed,
            pass_fds=() if lock is None else (lock,),
        )
        done = _together(done, _transferred(job, ended))
        if not done.verdict.complete:
            break
    assert done is not None  # noqa: S101 - there was a pass, or none was needed
    return done


def _transferred(job: Job, ended: process.Finished) -> Transferred:
    verdict = judge(ended.code, ended.stderr, ended.timed_out)
    if ended.stalled:
        verdict = Verdict(False, f"nothing moved for {job.stall_timeout} s (stall_timeout)")
    figures = {
        name: _figure(ended.stdout, words)
        for name, words in (
            ("files", "Number of files"),
            ("bytes", "Total file size"),
            ("bytes_transferred", arrived(job)),
            ("changed", "Number of regular files transferred"),
            ("changed_bytes", "Total transferred file size"),
        )
    }
    # A source that is missing as a whole is no part of it.
    usable = figures["files"] > 1 and not _NO_SOURCE.search(ended.stderr)
    if ended.code == PARTIAL and job.accept_partial and usable and not (ended.stalled or ended.timed_out):
        verdict = Verdict(True, verdict.note)
    regular = re.search(r"^Number of files: \d+ \(.*?reg: (\d+)", ended.stdout, re.MULTILINE)
    return Transferred(verdict, ended.code, **figures, regular=int(regular[1]) if regular else 0)


def arrived(job: Job) -> str:
    """Return how rsync calls what came over the wire: a local one is both ends, and says what it sent."""
    return "Total bytes sent" if job.local else "Total bytes received"


def _together(before: Transferred | None, last: Transferred) -> Transferred:
    """Return the figures of two passes: the tree as the last one saw it, all that was transferred."""
    if before is None:
        return last
    return replace(
        last,
        verdict=Verdict(last.verdict.complete, last.verdict.note or before.verdict.note),
        exit=last.exit or before.exit,
        bytes_transferred=before.bytes_transferred + last.bytes_transferred,
        changed=before.changed + last.changed,
        changed_bytes=before.changed_bytes + last.changed_bytes,
    )


def source_identity(job: Job) -> str:
    """Return what tells the file system of a local source from others; empty where it cannot be seen.

    rsync tells nothing about the file systems of a client.
    """
    if not job.local or is_pattern(job.source):
        return ""
    try:
        return f"{os.statvfs(job.source).f_fsid:x}"
    except OSError:
        return ""


def source_missing(config: Config, job: Job, address: str, pulse: Pulse) -> bool:
    """Return whether the source is absent, asked through the same narrow door."""
    if not sources(job, address):
        return True
    argv = ["rsync", "--dirs", "--list-only", f"--timeout={SILENCE}", "--", *sources(job, address)]
    env = {} if job.local else {"RSYNC_RSH": shell(config, job)}
    done = process.run(argv, pulse=pulse, timeout=120, env=env)
    absent = ("No such file or directory", "Unknown module", "change_dir")
    if done.code != 0:
        return any(words in done.stderr for words in absent)
    # Where the medium is not mounted there may be its empty mount point.
    return not is_pattern(job.source) and len(done.stdout.splitlines()) <= 1


class Meter:
    """Reads rsync's progress line as it comes, in pieces of any size."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._rest = ""
        self._files = 0

    def feed(self, text: str) -> None:
        """Take the next piece of output and report the newest progress in it."""
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        self._rest = self._rest[-500:]
        for line in reversed(lines):
            found = _PROGRESS.search(line)
            if found:
                self._on_progress(self._progress(found))
                return

    def _progress(self, found: re.Match[str]) -> Progress:
        if found["all"]:
            self._files = int(found["all"]) - int(found["left"])
        rate = int(float(found["rate"]) * _UNITS[found["unit"]])
        done, percent = int(found["bytes"]), int(found["percent"])
        # Of what rsync knows so far: it goes on listing while it transfers.
        left = int(done * (100 - percent) / percent / rate) if percent and rate else None
        return Progress(self._files, done, percent, rate, left)


def _may_set_all_attributes() -> bool:
    """Return whether this process has CAP_SYS_ADMIN, which an unprivileged service does without."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _SYS_ADMIN & 1)


def _figure(text: str, name: str) -> int:
    found = re.search(rf"^{name}: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _rsh_quoted(word: str) -> str:
    """Return a word as rsync's own splitting of RSYNC_RSH reads it: quotes double inside quotes."""
    if word and not re.search(r"[\s'\"]", word):
        return word
    return "'" + word.replace("'", "''") + "'"


def _ssh_quoted(path: str) -> str:
    """Return a path as ssh reads it in an option, where blanks would separate two files."""
    return f'"{path}"' if re.search(r"\s", path) else path
