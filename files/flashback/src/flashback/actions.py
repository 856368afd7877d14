"""One job from due to committed, held back or left for later; and a pass over all that are due.

This is where decisions (schedule, retention) and tools (reach, transfer, store, history)
meet.  It owns no loop and no process: the daemon and the command line call the same
functions.  The sacred rule: a snapshot is committed only after the right disk was seen
once more, and nothing expires unless something was committed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from flashback import clock, disk, process, reach, retention, schedule, transfer
from flashback.errors import FlashbackError, NotNowError, StoppedError, UsageError
from flashback.history import History
from flashback.model import Config, Job, JobState, Progress, Pulse, Run, ServerState, Snapshot
from flashback.status import Board
from flashback.store import Fill, Store
from flashback.store.hardlink import HardlinkStore
from flashback.transfer import Transferred

LOG = logging.getLogger("flashback")
# Seconds between two syncs of the disk during a transfer: what a power cut can cost.
CHECKPOINT = 60.0
# Seconds between two writings of the status during a transfer.
REPORT = 5.0


@dataclass(frozen=True)
class Attempt:
    """What became of one job in this pass."""

    job: Job
    state: JobState
    reason: str = ""
    run: Run | None = None


Observer = Callable[[Attempt], None]


def observe_nothing(attempt: Attempt) -> None:
    """Take notice of an attempt in no way."""


def refresh(board: Board, pulse: Pulse = process.no_pulse) -> None:
    """Look at disk, snapshots, clock and history, and put what is found on the board."""
    board.disk = disk.look(board.config)
    if board.disk.present:
        store = HardlinkStore(board.config.data_dir)
        board.snapshots = {job.name: store.snapshots(job) for job in board.config.jobs}
        board.last_runs = History(board.config.data_dir).last_runs()
    board.clock = _clock_problem(board, pulse) or ""


def run_pass(
    board: Board,
    pulse: Pulse,
    *,
    target: str | None = None,
    observer: Observer = observe_nothing,
    checkpoint: float | None = None,
) -> list[Attempt]:
    """Run every due job, or with a target the named ones, due or not; return what became of each.

    Raises NotNowError when no job can run at this moment: disk away, clock wrong, disk in use.
    """
    named = None if target is None else select(board.config, target)
    board.pass_started = board.now()
    board.next_pass_at = None
    board.marks.clear()
    board.turn(ServerState.PREPARING, "thinking...")
    refresh(board, pulse)
    # The state stays PREPARING and says why when one of these holds the pass.
    try:
        disk.require(board.config)
        if board.clock:
            raise NotNowError(
                f"The pass is held: {board.clock}", "It begins by itself once the clock is right"
            )
        with disk.locked(board.config) as lock, _held_open(board.config):
            work = _Work(board, pulse, lock, observer, CHECKPOINT if checkpoint is None else checkpoint)
            work.sweep()
            jobs = schedule.due(board.standings(), board.now()) if named is None else named
            return [work.attempt(job) for job in jobs]
    except NotNowError as problem:
        board.current = None
        if not isinstance(problem, StoppedError):
            board.turn(ServerState.PREPARING, f"waiting: {problem.what}", problem.what)
        raise


def select(config: Config, target: str) -> list[Job]:
    """Return the jobs that HOST, HOST/VOLUME or HOST/VOLUME/LABEL names; raise UsageError when none."""
    parts = target.strip("/").split("/")
    found = [job for job in config.jobs if [job.host, job.volume, job.label][: len(parts)] == parts]
    if not found:
        known = ", ".join(job.name for job in config.jobs) or "none at all"
        raise UsageError(f"No job is called {target}", f"Known are {known}")
    enabled = [job for job in found if not job.disabled]
    if not enabled:
        raise UsageError(f"{target} is disabled", "Remove `disabled: true` from the configuration")
    return enabled


def exit_code(attempts: Sequence[Attempt]) -> int:
    """Return 0 when all went well, 1 when a job failed, 75 when none failed but a client was away."""
    states = {attempt.state for attempt in attempts}
    if JobState.FAILED in states:
        return 1
    return NotNowError.exit_code if JobState.NOT_FOUND in states else 0


def describe(attempt: Attempt) -> str:
    """Return one plain line on what became of a job."""
    run = attempt.run
    line = f"{attempt.job.name}: {attempt.state.value}"
    if run and attempt.state is JobState.SUCCEEDED:
        line += (
            f" {run.snapshot}, {run.files} files, {run.bytes_transferred} bytes received in {run.duration} s"
        )
    return f"{line} ({attempt.reason})" if attempt.reason else line


def _clock_problem(board: Board, pulse: Pulse) -> str | None:
    if board.config.wait_for_sync:
        problem = clock.unsynchronised(pulse)
        if problem:
            return problem
    return schedule.clock_problem([board.newest(job) for job in board.config.jobs], board.now())


class _held_open:  # noqa: N801 - reads as a word after `with`
    """Keeps the disk from being unmounted quietly while a pass works on it."""

    def __init__(self, config: Config) -> None:
        self._path = config.data_dir

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class _Work:
    """One pass while it holds the disk."""

    def __init__(self, board: Board, pulse: Pulse, lock: int, observer: Observer, checkpoint: float) -> None:
        self._board = board
        self._config = board.config
        self._pulse = pulse
        self._lock = lock
        self._observer = observer
        self._checkpoint = checkpoint
        self._store: Store = HardlinkStore(board.config.data_dir)
        self._history = History(board.config.data_dir)

    def sweep(self) -> None:
        """Delete what interrupted expiries left."""
        for job in self._config.jobs:
            self._sweep(job)

    def _sweep(self, job: Job) -> None:
        try:
            self._store.sweep(job, self._pulse)
        except StoppedError:
            raise
        except (FlashbackError, OSError) as error:
            LOG.error("%s: leftovers cannot be deleted: %s", job.name, error)

    def attempt(self, job: Job) -> Attempt:
        """Try one job; whatever goes wrong with it is its result, except that the engine has to stop."""
        disk.require(self._config)
        self._pulse()
        try:
            address = self._reachable(job)
        except NotNowError as problem:
            if isinstance(problem, StoppedError):
                raise
            return self._finish(Attempt(job, JobState.NOT_FOUND, problem.what))
        started = self._board.now()
        self._board.current, self._board.current_since, self._board.progress = job, started, Progress()
        self._board.mark(job, JobState.BACKING_UP)
        self._board.turn(ServerState.BACKING_UP, f"backing up '{job.index}'")
        self._observer(Attempt(job, JobState.BACKING_UP))
        try:
            return self._finish(self._back_up(job, address, started))
        except StoppedError:
            self._record(
                self._run(job, started, "the engine was stopped; the backup continues at the next pass")
            )
            raise
        except (FlashbackError, OSError) as error:
            return self._fail(job, started, str(error))
        except Exception as error:
            # A bug met by one job must not keep the jobs behind it from their backup.
            LOG.exception("%s: an error in the engine itself", job.name)
            return self._fail(job, started, f"an error in the engine itself: {error!r}")
        finally:
            self._board.current = None

    def _reachable(self, job: Job) -> str:
        """Return the address to use; raise NotNowError when the client or its source is not there."""
        address = ""
        if not job.local:
            found = reach.look(job, self._config.known_hosts, self._pulse)
            if found.kind is not reach.Kind.REACHABLE:
                if found.kind is not reach.Kind.AWAY:
                    LOG.warning("%s: %s", job.name, found.reason)
                raise NotNowError(found.reason)
            address = found.address
        if job.removable and transfer.source_missing(self._config, job, address, self._pulse):
            raise NotNowError(f"{job.source} is not there (removable)")
        return address

    def _back_up(self, job: Job, address: str, started: datetime) -> Attempt:
        fill = self._store.begin(job, self._pulse)
        try:
            done = self._transfer(job, address, fill)
        except StoppedError:
            self._keep(fill)
            raise
        problem = "" if done.verdict.complete else done.verdict.note
        if not problem and self._store.emptied(fill):
            problem = (
                f"{job.source} holds no file any more though the newest snapshot does; "
                "is its disk mounted on the client? Nothing was committed and nothing expires"
            )
        if problem:
            self._board.turn(ServerState.CLEANING, f"discarding '{job.index}'")
            self._keep(fill)
            run = self._run(job, started, problem, done)
            return Attempt(job, JobState.FAILED, problem, run)
        disk.require(self._config)
        self._board.mark(job, JobState.ROTATING)
        self._board.turn(ServerState.ROTATING, f"rotating '{job.index}'")
        snapshot = self._store.commit(fill, self._board.now, self._pulse_and_report)
        note = (done.verdict.note + self._expire(job)).strip()
        run = self._run(job, started, note, done, snapshot)
        return Attempt(job, JobState.SUCCEEDED, note, run)

    def _transfer(self, job: Job, address: str, fill: Fill) -> Transferred:
        due = time.monotonic() + self._checkpoint

        def pulse() -> None:
            nonlocal due
            self._pulse_and_report()
            if time.monotonic() >= due:
                self._store.checkpoint(fill, self._pulse_and_report)
                due = time.monotonic() + self._checkpoint

        def on_progress(progress: Progress) -> None:
            self._board.progress = progress

        return transfer.fill(
            self._config,
            job,
            address,
            fill.destination,
            pulse=pulse,
            on_progress=on_progress,
            log=lambda line: LOG.info("%s: %s", job.name, line),
            lock=self._lock,
        )

    def _keep(self, fill: Fill) -> None:
        """Make what has arrived safe for the run that continues it. Best effort: the disk may be gone."""
        try:
            if disk.look(self._config).present:
                self._store.checkpoint(fill, process.no_pulse)
        except (FlashbackError, OSError) as error:
            LOG.warning("%s: what has arrived cannot be synced: %s", fill.job.name, error)

    def _expire(self, job: Job) -> str:
        """Delete what retention lets go; return a note when that fails, for the snapshot itself is good."""
        found = self._store.snapshots(job)
        self._board.snapshots[job.name] = found
        gone = retention.expired([each.taken for each in found], job.keep.last)
        try:
            self._store.expire(job, gone, self._pulse_and_report)
        except StoppedError:
            # The next pass sweeps what has lost its name; the snapshot of this run counts.
            return ""
        except (FlashbackError, OSError) as error:
            LOG.error("%s: %s", job.name, error)
            return f" old snapshots could not be deleted: {error}"
        finally:
            self._board.snapshots[job.name] = self._store.snapshots(job)
        return ""

    def _pulse_and_report(self) -> None:
        self._pulse()
        self._board.publish_if_older(REPORT)

    def _run(
        self,
        job: Job,
        started: datetime,
        reason: str,
        done: Transferred | None = None,
        snapshot: Snapshot | None = None,
    ) -> Run:
        return Run(
            job=job.name,
            started_at=started,
            finished_at=self._board.now(),
            outcome=JobState.SUCCEEDED if snapshot else JobState.FAILED,
            exit=done.exit if done else None,
            reason=reason,
            snapshot=snapshot.name if snapshot else None,
            files=done.files if done else 0,
            bytes=done.bytes if done else 0,
            bytes_transferred=done.bytes_transferred if done else 0,
        )

    def _fail(self, job: Job, started: datetime, reason: str) -> Attempt:
        return self._finish(Attempt(job, JobState.FAILED, reason, self._run(job, started, reason)))

    def _finish(self, attempt: Attempt) -> Attempt:
        """Record, log, publish and pass on what became of a job."""
        self._board.current = None
        self._board.mark(attempt.job, attempt.state, attempt.reason)
        if attempt.run is not None:
            self._record(attempt.run)
        LOG.log(logging.ERROR if attempt.state is JobState.FAILED else logging.INFO, "%s", describe(attempt))
        self._board.disk = disk.look(self._config)
        words = "was not found" if attempt.state is JobState.NOT_FOUND else attempt.state.value.lower()
        self._board.turn(ServerState.PREPARING, f"'{attempt.job.index}' {words}")
        self._observer(attempt)
        return attempt

    def _record(self, run: Run) -> None:
        self._board.last_runs[run.job] = run
        if disk.look(self._config).present:
            self._history.add(run)
