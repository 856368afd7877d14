"""Where snapshots live: the contract that every kind of storage keeps.

A store knows directories and links; it does not know clients, schedules or rsync.  The
sacred rule of every store: no inode that a complete snapshot holds is ever modified, and
a snapshot is complete if and only if it bears its timestamp name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from flashback.disk import filesystem
from flashback.listing import Comparison
from flashback.model import Destination, Job, Pulse, Snapshot


@dataclass(frozen=True)
class Fill:
    """A snapshot being filled.

    `destination` says how rsync is to be run; `newest` is the newest complete snapshot; `continued` tells
    whether something of an interrupted fill is used again, so that rsync's own figures do not tell how
    much differs from the newest snapshot.
    """

    job: Job
    destination: Destination
    newest: Snapshot | None
    continued: bool = False

    @property
    def tree(self) -> Path:
        """Return the directory being filled."""
        return self.destination.where / self.destination.target


class Store(Protocol):
    """What the actions ask of a storage."""

    kind: str
    """`hardlink` or `btrfs`, as the status says it."""
    changes_folders: bool
    """Whether a fill of `begin_from` makes the folders above what is fetched as the client has them then."""

    def snapshots(self, job: Job) -> list[Snapshot]:
        """Return the complete snapshots of a job, oldest first, without the suspect ones."""

    def suspects(self, job: Job) -> list[Snapshot]:
        """Return what the guard held back, oldest first."""

    def begin(self, job: Job, pulse: Pulse, *, beside: Snapshot | None = None) -> Fill:
        """Return a directory to fill; what an interrupted fill left is used again.

        `beside` is a snapshot of the volume that is more like what comes than the job's newest.
        Filling it changes no inode that a complete snapshot holds.
        """

    def can_begin_from(self, job: Job) -> bool:
        """Return whether a tree like the newest snapshot can be had at once."""

    def begin_from(self, job: Job, comparison: Comparison, pulse: Pulse) -> Fill:
        """Return a fill of which only what differs is to be fetched; `join` makes it whole.

        Filling it changes no inode that a complete snapshot holds.
        """

    def join(self, fill: Fill, comparison: Comparison) -> None:
        """Put what was fetched to all that did not change, in a fill that `begin_from` began."""

    def writing(self, fill: Fill, pulse: Pulse) -> AbstractContextManager[None]:
        """Return a context in which what has arrived is on its way to the disk, so that `commit` is short."""

    def prepare(self, job: Job, pulse: Pulse) -> None:
        """Make ready, between the backups, what a fill of `begin_from` is joined with."""

    def begin_copy(self, job: Job, original: Snapshot, pulse: Pulse) -> Fill:
        """Return a fill that holds all that `original` holds, without a transfer (second-level labels)."""

    def tidy(self, tree: Path) -> None:
        """Take out of a filled tree what was of use for filling it alone; `commit` does so by itself."""

    def checkpoint(self, fill: Fill, pulse: Pulse) -> None:
        """Make what has arrived so far survive a power cut, and remember since when it does."""

    def commit(
        self, fill: Fill, now: Callable[[], datetime], pulse: Pulse, *, suspect: bool = False
    ) -> Snapshot:
        """Turn the filled directory into a complete (or suspect) snapshot, atomically.

        It is read-only afterwards where the file system can do that.
        """

    def accept(self, job: Job, suspect: Snapshot, pulse: Pulse) -> Snapshot:
        """Make a suspect snapshot a complete one: it takes its place by its own time."""

    def reject(self, job: Job, suspect: Snapshot, pulse: Pulse) -> None:
        """Delete a suspect snapshot at idle priority; first it loses its name."""

    def rename(self, job: Job, snapshot: Snapshot, taken: datetime) -> Snapshot:
        """Give a complete snapshot whose name bears a wrong time another one."""

    def expire(self, job: Job, taken: Sequence[datetime], pulse: Pulse) -> None:
        """Delete those snapshots, at idle priority; first they lose their names."""

    def retire(self, job: Job, taken: Sequence[datetime]) -> None:
        """Take the names off those snapshots; `sweep` deletes them when there is time."""

    def sweep(self, job: Job, pulse: Pulse) -> bool:
        """Delete what has lost its name; return whether there was anything."""

    def discard(self, job: Job, pulse: Pulse) -> None:
        """Delete what interrupted fills left: the last thing that makes room on a full disk."""

    def settle(self, pulse: Pulse) -> None:
        """Wait until the room of what was deleted is free: some file systems give it back later."""

    def notes(self, job: Job) -> dict[datetime, str]:
        """Return the keep marks of a job: the note of each snapshot that must never expire."""

    def note(self, job: Job, taken: datetime, text: str | None) -> None:
        """Set the keep mark of a snapshot, or with None take it away; it survives a power cut."""

    def mend(self, snapshot: Snapshot, path: bytes, healed: Path | None) -> None:
        """Replace a damaged file by `healed`, a file on the same disk, or with None take its name away.

        The one exception from the rule that nothing complete is written again. Times of directories stay.
        """


def open_store(root: Path) -> Store:
    """Return the storage that fits the file system below a mount point."""
    if filesystem(root) == "btrfs":
        from flashback.store.btrfs import BtrfsStore  # noqa: PLC0415 - only where it is needed

        return BtrfsStore(root)
    from flashback.store.hardlink import HardlinkStore  # noqa: PLC0415 - as above

    return HardlinkStore(root)
