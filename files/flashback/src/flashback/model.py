"""The nouns of the engine: jobs, snapshots, states, runs.

Only frozen records and the naming of snapshots live here.  Nothing touches the disk,
the network or the clock.  The sacred rule: a snapshot's name is the moment it was
completed, in UTC, and reads back to exactly that moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

NAME_FORMAT = "%Y-%m-%dT%H%M%SZ"
SUSPECT = "suspect-"
_NAME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")

# Called at least once a second during anything long. It may raise errors.StoppedError.
Pulse = Callable[[], None]


class ServerState(str, Enum):
    """What the engine as a whole is doing (the words of 2014)."""

    PRESTART = "PRESTART"
    PREPARING = "PREPARING"
    IDLE = "IDLE"
    BACKING_UP = "BACKING_UP"
    ROTATING = "ROTATING"
    CLEANING = "CLEANING"
    DOWN = "DOWN"


class JobState(str, Enum):
    """How one job stands (the words of 2014)."""

    UNKNOWN = "UNKNOWN"
    NOT_READY = "NOT_READY"
    READY = "READY"
    NOT_FOUND = "NOT_FOUND"
    BACKING_UP = "BACKING_UP"
    ROTATING = "ROTATING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DISABLED = "DISABLED"


@dataclass(frozen=True)
class Keep:
    """Which snapshots of a job stay: the newest `last`, and the newest of each of so many past periods."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True)
class Window:
    """A time of the week, local; `end` at or before `start` means the next day. Minutes after midnight."""

    days: frozenset[int]
    """Days on which it begins: 0 is Monday."""
    start: int
    end: int


@dataclass(frozen=True)
class Job:
    """One job with every setting resolved. Durations are seconds."""

    host: str
    volume: str
    label: str
    source: str
    addresses: tuple[str, ...]
    port: int = 22
    user: str = "root"
    mac: str | None = None
    """Hardware address for Wake-on-LAN."""
    always_on: bool = False
    """Whether the client is expected to be there at any time; only then blackouts count."""
    blackouts: tuple[Window, ...] = ()
    late_after: int = 86400
    """How long the job may stay due while its client is there."""
    away_limit: int = 1209600
    """How long the client may be away."""
    max_rtt_ms: int | None = None
    """The job waits while the client answers more slowly than this."""
    only_networks: tuple[str, ...] = ()
    """The job waits while the client is reached at an address outside these networks."""
    period: int = 86400
    keep: Keep = Keep(last=9)
    detect: str = "manifest"
    """How changes are found: `manifest` compares listings, `full` every entry with the snapshot."""
    full_every: int = 604800
    """How often every entry is compared all the same."""
    timeout: int = 43200
    stall_timeout: int = 1800
    """How long a transfer may go without any progress."""
    copy_of: str | None = None
    """Label of the same volume whose newest snapshot is taken over without a transfer."""
    before: tuple[str, ...] = ()
    """Command on the plug before the transfer; when it fails the job fails."""
    after: tuple[str, ...] = ()
    """Command on the plug after a try, whatever came of it."""
    accept_partial: bool = False
    """Whether a snapshot counts although some files could not be read (rsync exit 23)."""
    guard: bool = True
    """Whether a snapshot that lost or altered far too much is held back."""
    guard_percent: int = 50
    """Share of the newest snapshot's files or bytes whose loss or change is too much."""
    excludes: tuple[str, ...] = ()
    exclude_larger_than: str | None = None
    """Size as rsync writes it."""
    exclude_file: str | None = None
    """Name of a file that lists, in any folder of the client, what to leave out there."""
    whole_file: bool = False
    """Whether changed files are sent whole instead of as differences."""
    one_file_system: bool = True
    bandwidth_limit: str | None = None
    disabled: bool = False
    local: bool = False
    removable: bool = False
    rsync_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return HOST/VOLUME/LABEL, as the command line and the disk have it."""
        return f"{self.host}/{self.volume}/{self.label}"

    @property
    def index(self) -> str:
        """Return HOST-VOLUME-LABEL, as the text files of 2014 have it."""
        return f"{self.host}-{self.volume}-{self.label}"


@dataclass(frozen=True)
class Config:
    """The whole configuration, validated and resolved. Durations are seconds."""

    path: Path
    data_dir: Path
    disk_id: str | None = None
    smart: Path | None = None
    container: Path | None = None
    run_dir: Path = Path("/run/flashback")
    interval: int = 600
    concurrency: int = 1
    """How many jobs may run at the same time."""
    wait_for_sync: bool = True
    ssh_key: Path = Path("/var/lib/flashback/.ssh/id_ed25519")
    known_hosts: Path = Path("/var/lib/flashback/.ssh/known_hosts")
    ciphers: tuple[str, ...] = ()
    """Ciphers that ssh offers, the first preferred; without any ssh's own choice."""
    restore_key: Path = Path("/var/lib/flashback/.ssh/restore_ed25519")
    """Key that may write to clients; used by `restore` alone."""
    reserve_percent: int = 5
    """Share of the disk's space that stays free."""
    reserve_inodes_percent: int = 2
    floor: int = 2
    """Snapshots of each job that a full disk never costs."""
    verify_bytes: int = 2_000_000_000
    """Bytes that one night's slice reads again."""
    verify_rate: int = 10_000_000
    """Bytes per second that verifying may read."""
    verify_at: int = 180
    """Local minute of the day from which the night's slice may run."""
    drill_every: int = 604800
    """How often each client's restore is proven."""
    drill_files: int = 20
    led_green: str | None = None
    led_red: str | None = None
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, order=True)
class Snapshot:
    """One snapshot; `taken` is the moment of its completion in UTC.

    A suspect one was held back by the guard: it bears the name with `suspect-` before it.
    """

    taken: datetime
    path: Path = field(compare=False)
    suspect: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """Return the directory's name."""
        return (SUSPECT if self.suspect else "") + snapshot_name(self.taken)


@dataclass(frozen=True)
class Destination:
    """Where and how rsync fills a directory: it runs in `where`, writes to `target`.

    `passes` has the further options of each run of rsync; the runs follow one another and the last one
    leaves the tree complete.
    """

    where: Path
    target: str
    passes: tuple[tuple[str, ...], ...] = ((),)
    selected: bool = False
    """Whether the options name the entries to fetch, instead of all that the job does not leave out."""


@dataclass(frozen=True)
class Changes:
    """How a filled tree differs from the newest snapshot; `kept` files have the same path and content."""

    files: int
    """Regular files in the new tree."""
    bytes: int
    """Their size."""
    kept: int
    kept_bytes: int


@dataclass(frozen=True)
class Progress:
    """How far a transfer is; `percent` is of the bytes known so far, `rate` in bytes per second."""

    files: int = 0
    bytes: int = 0
    percent: int = 0
    rate: int = 0
    seconds_left: int | None = None

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Progress:
        """Return the progress that a document tells."""
        return cls(*(made[each.name] for each in fields(cls)))


@dataclass(frozen=True)
class Run:
    """One attempt at a job, as history keeps it.

    `regular` counts regular files, `changed` those of them that were transferred, `changed_bytes` is their
    full size; `bytes_transferred` is what came over the wire.
    """

    job: str
    started_at: datetime
    finished_at: datetime
    outcome: JobState
    exit: int | None = None
    reason: str = ""
    snapshot: str | None = None
    files: int = 0
    bytes: int = 0
    bytes_transferred: int = 0
    regular: int = 0
    changed: int = 0
    changed_bytes: int = 0
    source: str = ""
    """Identity of the file system that the source was on; empty where it cannot be seen."""

    @property
    def duration(self) -> int:
        """Return how long it took, in seconds, whole days included."""
        return max(0, int((self.finished_at - self.started_at).total_seconds()))


@dataclass(frozen=True)
class Presence:
    """A time during which every probe of a client said the same."""

    present: bool
    since: datetime
    until: datetime
    reason: str = ""


@dataclass(frozen=True)
class DiskUse:
    """How full the disk was at a moment; sizes in bytes, `inodes` 0 where they are made as needed."""

    at: datetime
    used: int
    total: int
    inodes_used: int
    inodes: int


def snapshot_name(taken: datetime) -> str:
    """Return the directory name of a snapshot completed at that moment."""
    return taken.astimezone(timezone.utc).strftime(NAME_FORMAT)


def snapshot_time(name: str) -> datetime | None:
    """Return the moment a directory name stands for, or None when it is not a snapshot's name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        return datetime(*map(int, found.groups()), tzinfo=timezone.utc)  # type: ignore[arg-type,misc]
    except ValueError:
        return None


def moment(text: str) -> datetime:
    """Return the moment that `iso` wrote as text."""
    # Not strptime: it brings calendars and locales along, for good.
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def iso(moment: datetime | None) -> str | None:
    """Return a moment as the status document writes it: UTC, whole seconds."""
    return None if moment is None else moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
