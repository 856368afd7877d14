"""Make room on the backup disk: retire what no rule keeps, thin what a full disk cannot hold.

What goes is decided by retention and space; here they meet the store and the disk.  The
sacred rule: what another job is filling at this moment is nobody's to delete.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime

from flashback import clock, disk, retention, space
from flashback.errors import FlashbackError, StoppedError
from flashback.model import Job, Pulse, Snapshot
from flashback.status import Board
from flashback.store import Store

LOG = logging.getLogger("flashback")


class Room:
    """The disk as the jobs of one pass share it."""

    def __init__(self, board: Board, store: Store) -> None:
        self._board = board
        self._config = board.config
        self._store = store
        # Two jobs must not thin from one list, nor count one floor twice.
        self._thinning = threading.Lock()

    def look(self, job: Job) -> Sequence[Snapshot]:
        """Return the complete snapshots of a job, and let the status know them."""
        found = self._store.snapshots(job)
        self._board.snapshots[job.name] = found
        self._board.suspects[job.name] = self._store.suspects(job)
        return found

    def retire(self, job: Job) -> str:
        """Take their names off the snapshots that no rule keeps; return a note when that fails.

        Deleting takes long, and what is deleted may serve the next backup: that is a chore.
        """
        found = self.look(job)
        if self._board.suspects.get(job.name):
            return ""
        gone = retention.expired(
            [each.taken for each in found], job.keep, marked=self._spared(job), zone=clock.zone()
        )
        try:
            self._store.retire(job, gone)
        except (FlashbackError, OSError) as error:
            LOG.error("%s: %s", job.name, error)
            return f" old snapshots could not be deleted: {error}"
        finally:
            self.look(job)
        return ""

    def make(self, own: Job, pulse: Pulse) -> None:
        """Thin the oldest snapshots of all jobs until the reserve is free, down to the floor of each."""
        with self._thinning:
            self._thin(own, pulse)

    def stop_before_full(self, job: Job) -> None:
        """End a transfer that would fill the disk to its last byte; what has arrived is kept."""
        if self._running_out():
            raise FlashbackError(
                f"The backup disk is nearly full, {job.name} was stopped before it was",
                "Older snapshots make room at the next pass as far as they may; or use a larger disk",
            )

    def _thin(self, own: Job, pulse: Pulse) -> None:
        self._board.shortage = ""
        if self._shortage() and sweep(self._store, self._config.jobs, pulse):
            self._store.settle(pulse)
        victims = self._victims() if self._shortage() else None
        while victims is not None and (short := self._shortage()) is not None:
            name, taken = next(victims, ("", None))
            if taken is None:
                self._last_resort(own, short, pulse)
                return
            victim = next(each for each in self._config.jobs if each.name == name)
            LOG.warning("%s: the snapshot of %s makes room: %s", name, taken, short)
            self._store.expire(victim, [taken], pulse)
            self._store.settle(pulse)
            self.look(victim)

    def _last_resort(self, own: Job, short: space.Shortage, pulse: Pulse) -> None:
        """No snapshot may go any more: what interrupted fills left goes, or no backup can begin."""
        self._board.shortage = space.sentence(short, self._config.floor)
        if not self._running_out():
            return
        for job in self._config.jobs:
            if job.name == own.name or job.name not in self._board.running:
                self._store.discard(job, pulse)
        self._store.settle(pulse)
        if self._running_out():
            raise FlashbackError(self._board.shortage)

    def _running_out(self) -> bool:
        config = self._config
        return space.running_out(disk.look(config), config.reserve_percent, config.reserve_inodes_percent)

    def _shortage(self) -> space.Shortage | None:
        config = self._config
        return space.shortage(disk.look(config), config.reserve_percent, config.reserve_inodes_percent)

    def _victims(self) -> space.Victims:
        jobs = [job for job in self._config.jobs if not self._board.suspects.get(job.name)]
        return space.victims(
            {job.name: [each.taken for each in self._store.snapshots(job)] for job in jobs},
            {job.name: self._spared(job) for job in jobs},
            self._config.floor,
        )

    def _spared(self, job: Job) -> list[datetime]:
        """Return the snapshots that no rule may cost: those marked by a person and the last proven one."""
        proven = self._board.care.proven.get(job.name)
        return [*self._store.notes(job), *([proven] if proven else [])]


def sweep(store: Store, jobs: Iterable[Job], pulse: Pulse) -> bool:
    """Delete what has expired, return whether there was any; a failure to do so stops nothing."""
    found = False
    for job in jobs:
        try:
            found |= store.sweep(job, pulse)
        except StoppedError:  # noqa: PERF203 - a handful of jobs
            raise
        except (FlashbackError, OSError) as error:
            LOG.error("%s: what has expired cannot be deleted: %s", job.name, error)
    return found
