"""Where snapshots live: the contract that every kind of storage keeps.

A store knows directories and links; it does not know clients, schedules or rsync.  The
sacred rule of every store: no inode that a complete snapshot holds is ever modified, and
a snapshot is complete if and only if it bears its timestamp name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from flashback.model import Job, Pulse, Snapshot


@dataclass(frozen=True)
class Fill:
    """A snapshot being filled: rsync runs in `where` and writes to `target`, empty at the start."""

    job: Job
    where: Path
    target: str
    link_dests: tuple[str, ...]
    newest: Snapshot | None


class Store(Protocol):
    """What the actions ask of a storage."""

    def snapshots(self, job: Job) -> list[Snapshot]:
        """Return the complete snapshots of a job, oldest first."""

    def begin(self, job: Job, pulse: Pulse) -> Fill:
        """Return an empty directory to fill, beside what an interrupted run left to continue from."""

    def checkpoint(self, fill: Fill, pulse: Pulse) -> None:
        """Make what has arrived so far survive a power cut, and remember since when it does."""

    def emptied(self, fill: Fill) -> bool:
        """Return whether the new tree holds no regular file at all while the newest snapshot does."""

    def commit(self, fill: Fill, now: Callable[[], datetime], pulse: Pulse) -> Snapshot:
        """Turn the filled directory into a complete snapshot, atomically."""

    def expire(self, job: Job, taken: Sequence[datetime], pulse: Pulse) -> None:
        """Delete those snapshots, at idle priority; first they lose their names."""

    def sweep(self, job: Job, pulse: Pulse) -> None:
        """Delete what an interrupted expiry left behind."""
