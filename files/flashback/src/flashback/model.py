"""The nouns of the engine: jobs, snapshots, states, runs.

Only frozen records and the naming of snapshots live here.  Nothing touches the disk,
the network or the clock.  The sacred rule: a snapshot's name is the moment it was
completed, in UTC, and reads back to exactly that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

NAME_FORMAT = "%Y-%m-%dT%H%M%SZ"
NAME_LENGTH = len("2026-11-23T030000Z")

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
class Job:
    """One job with every setting resolved. Durations are seconds."""

    host: str
    volume: str
    label: str
    source: str
    addresses: tuple[str, ...]
    port: int = 22
    user: str = "root"
    period: int = 86400
    keep: int = 9
    timeout: int = 43200
    excludes: tuple[str, ...] = ()
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
    run_dir: Path = Path("/run/flashback")
    interval: int = 600
    wait_for_sync: bool = True
    ssh_key: Path = Path("/var/lib/flashback/.ssh/id_ed25519")
    known_hosts: Path = Path("/var/lib/flashback/.ssh/known_hosts")
    led_green: str | None = None
    led_red: str | None = None
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, order=True)
class Snapshot:
    """One complete snapshot; `taken` is the moment of its completion in UTC."""

    taken: datetime
    path: Path = field(compare=False)

    @property
    def name(self) -> str:
        """Return the directory's name."""
        return snapshot_name(self.taken)


@dataclass(frozen=True)
class Progress:
    """How far a transfer is; `percent` is of the bytes known so far, `rate` in bytes per second."""

    files: int = 0
    bytes: int = 0
    percent: int = 0
    rate: int = 0


@dataclass(frozen=True)
class Run:
    """One attempt at a job, as history keeps it."""

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

    @property
    def duration(self) -> int:
        """Return how long it took, in seconds, whole days included."""
        return max(0, int((self.finished_at - self.started_at).total_seconds()))


def snapshot_name(taken: datetime) -> str:
    """Return the directory name of a snapshot completed at that moment."""
    return taken.astimezone(timezone.utc).strftime(NAME_FORMAT)


def snapshot_time(name: str) -> datetime | None:
    """Return the moment a directory name stands for, or None when it is not a snapshot's name."""
    if len(name) != NAME_LENGTH or not name.isascii():
        return None
    try:
        taken = datetime.strptime(name, NAME_FORMAT).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    # strptime is lenient about blanks and signs; only a name that we would write counts.
    return taken if snapshot_name(taken) == name else None


def iso(moment: datetime | None) -> str | None:
    """Return a moment as the status document writes it: UTC, whole seconds."""
    return None if moment is None else moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
