"""One job from due to committed, held back or left for later.

This is where decisions (guard, retention, space) and tools (reach, transfer, store,
history) meet for a single job.  Which jobs run, and when, is decided elsewhere.  The
sacred rule: a snapshot is committed only after the right disk was seen once more, and
nothing expires unless something was committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from flashback import changes, connection, disk, guard, process, reach, survey, transfer, wake
from flashback.errors import CancelledError, FlashbackError, NotNowError, StoppedError
from flashback.history import History
from flashback.listing import UnclearError
from flashback.model import Job, JobState, Progress, Pulse, Run, ServerState, Snapshot
from flashback.room import Room
from flashback.shelf import Shelf
from flashback.status import Board, Running, held_back, watched
from flashback.store import Fill, Store
from flashback.survey import Survey
from flashback.transfer import Transferred

LOG = logging.getLogger("flashback")
# Seconds between two syncs of the disk during a transfer: what a power cut can cost.
CHECKPOINT = 60.0
# Probes further apart than this, plus the time between passes, leave a gap in the record of presence.
GAP = timedelta(days=1)
# How long a client that was woken may take to answer, in seconds, and how often it is asked.
WAKING = 90.0
ASKING = 5.0
# How many past runs the guard learns from.
LEARNED = 30
# How long the command after a backup may take when the engine is being stopped, in seconds.
STOPPING = 60


@dataclass(frozen=True)
class Attempt:
    """What became of one job in this pass."""

    job: Job
    state: JobState
    reason: str = ""
    run: Run | None = None


Observer = Callable[[Attempt], None]


def describe(attempt: Attempt) -> str:
    """Return one plain line on what became of a job."""
    run = attempt.run
    line = f"{attempt.job.name}: {attempt.state.value}"
    if run and attempt.state is JobState.SUCCEEDED:
        line += (
            f" {run.snapshot}, {run.files} files, {run.bytes_transferred} bytes received in {run.duration} s"
        )
    return f"{line} ({attempt.reason})" if attempt.reason else line


class Work:
    """What all jobs of one pass share, while it holds the disk."""

    def __init__(
        self, board: Board, store: Store, lock: int, observer: Observer, checkpoint: float = CHECKPOINT
    ) -> None:
        self._board = board
        self._config = board.config
        self._store = store
        self._lock = lock
        self._observer = observer
        self._checkpoint = checkpoint
        self._history = History(board.config.data_dir)
        self._reached: dict[str, reach.Reach] = {}
        self._room = Room(board, store)

    def attempt(self, job: Job, pulse: Pulse) -> Attempt:
        """Try one job; whatever goes wrong with it is its result, except that the engine has to stop."""
        disk.require_same(self._config, self._lock)
        pulse()
        started = self._board.now()
        try:
            address = self._reachable(job, pulse)
            self._begin(job, started)
            return self._finish(self._with_hooks(job, address, started, pulse))
        except CancelledError as problem:
            return self._finish(Attempt(job, JobState.READY, problem.what))
        except StoppedError:
            if job.name in self._board.running:
                self._record(
                    self._run(job, started, "the engine was stopped; the backup continues at the next pass")
                )
            raise
        except _AwayError as problem:
            return self._finish(Attempt(job, JobState.NOT_FOUND, problem.what))
        except (FlashbackError, OSError) as error:
            return self._fail(job, started, str(error))
        except Exception as error:
            # A bug met by one job must not keep the jobs behind it from their backup.
            LOG.exception("%s: an error in the engine itself", job.name)
            return self._fail(job, started, f"an error in the engine itself: {error!r}")
        finally:
            self._board.running.pop(job.name, None)

    def _begin(self, job: Job, started: datetime) -> None:
        self._board.running[job.name] = Running(job, started)
        self._board.mark(job, JobState.BACKING_UP)
        self._board.turn(ServerState.BACKING_UP, f"backing up '{job.index}'")
        self._observer(Attempt(job, JobState.BACKING_UP))

    # --- is it there ---------------------------------------------------------------------------------------

    def _reachable(self, job: Job, pulse: Pulse) -> str:
        """Return the address to use; raise _AwayError when the client or its source is not there."""
        if job.copy_of is not None:
            return ""
        found = self._look(job, pulse)
        present = found.kind in (reach.Kind.REACHABLE, reach.Kind.SLOW_PATH)
        reason = found.reason
        if found.kind is reach.Kind.REACHABLE and job.removable:
            present = not transfer.source_missing(self._config, job, found.address, pulse)
            reason = "" if present else f"{job.source} is not there (removable)"
        if not job.local or job.removable:
            self._saw(job, present, reason)
        wrong = found.kind in (reach.Kind.WRONG_MACHINE, reach.Kind.NO_PINNED_KEY)
        self._board.alarms[job.name] = reason if wrong else ""
        for warning in found.warnings:
            LOG.warning("%s: %s", job.name, warning)
        if found.kind is not reach.Kind.REACHABLE or not present:
            if wrong:
                LOG.warning("%s: %s", job.name, reason)
            raise _AwayError(reason)
        return found.address

    def _saw(self, job: Job, present: bool, reason: str) -> None:
        gap = GAP + timedelta(seconds=self._config.interval)
        self._history.saw(watched(job), present, self._board.now(), reason, gap)

    def _look(self, job: Job, pulse: Pulse) -> reach.Reach:
        """Return how the client can be reached, once per pass; one that sleeps is woken first."""
        known = self._reached.get(job.name) or self._reached.get(job.host)
        if known is not None and known.kind is reach.Kind.AWAY:
            return known
        found = reach.look(job, self._config.known_hosts, pulse)
        if found.kind is reach.Kind.AWAY and job.mac is not None:
            wake.wake(job.mac, pulse)
            until = time.monotonic() + WAKING
            while found.kind is reach.Kind.AWAY and time.monotonic() < until:
                again = time.monotonic() + ASKING
                while time.monotonic() < again:
                    pulse()
                    time.sleep(0.2)
                found = reach.look(job, self._config.known_hosts, pulse)
        if not job.removable and not job.local:
            self._reached[job.host] = found
        return found

    # --- the backup ----------------------------------------------------------------------------------------

    def _with_hooks(self, job: Job, address: str, started: datetime, pulse: Pulse) -> Attempt:
        """Run the command before, the backup, and whatever came of it the command after."""
        if not job.before and not job.after:
            return self._back_up(job, address, started, pulse)
        # A copy reads nothing on the client: there is nothing to prepare.
        before = () if job.copy_of else job.before
        try:
            _hook(job, before, pulse, when="before")
            attempt = self._back_up(job, address, started, pulse)
        except _NotBegunError:
            raise
        except (_AwayError, StoppedError) as end:
            self._tidy_up(job, end)
            raise
        except (FlashbackError, OSError) as error:
            attempt = Attempt(job, JobState.FAILED, str(error), self._run(job, started, str(error)))
        try:
            snapshot = attempt.run.snapshot if attempt.run else None
            outcome = attempt.state.value
            _hook(job, job.after, pulse, when="after", outcome=outcome, snapshot=snapshot or "")
        except StoppedError:
            raise
        except FlashbackError as error:
            reason = "; ".join(part for part in (attempt.reason, str(error)) if part)
            run = attempt.run and replace(attempt.run, outcome=JobState.FAILED, reason=reason)
            return Attempt(job, JobState.FAILED, reason, run)
        return attempt

    def _tidy_up(self, job: Job, end: NotNowError) -> None:
        """Run the command after a backup that was given up: it may have to end what the one before began."""
        outcome = "STOPPED" if isinstance(end, StoppedError) else JobState.NOT_FOUND.value
        try:
            short = replace(job, timeout=STOPPING)
            _hook(short, job.after, process.no_pulse, when="after", outcome=outcome)
        except FlashbackError as error:
            LOG.error("%s: %s (%s)", job.name, error, end.what)

    def _back_up(self, job: Job, address: str, started: datetime, pulse: Pulse) -> Attempt:
        disk.require_same(self._config, self._lock)
        self._room.make(job, pulse)
        if job.copy_of is not None:
            return self._copy(job, started, pulse)
        with connection.kept(self._config, job, address, pulse) as shared:
            fill, found = self._begin_fill(job, self._survey(job, address, shared, pulse), pulse)
            try:
                done = self._transfer(job, address, shared, fill, pulse)
            except (FlashbackError, OSError):
                self._keep(fill)
                raise
        if not done.verdict.complete:
            self._learn(fill, found, done, pulse)
            return self._give_up(fill, self._run(job, started, done.verdict.note, done))
        if found:
            with self._store.writing(fill, pulse):
                self._join(fill, found)
                missing = survey.settle(self._config, job, found, fill.tree)
            done = survey.totals(found, done)
        else:
            missing = self._missing(fill, done, pulse)
        refusal = guard.vanished(missing, done.regular, job.guard_percent)
        if refusal:
            return self._give_up(fill, self._run(job, started, refusal, done))
        return self._commit(fill, found, done, started, pulse)

    def _join(self, fill: Fill, found: Survey) -> None:
        """Make the tree whole; when it is not as its listing says, the next pass compares everything."""
        try:
            self._store.join(fill, found.comparison)
        except UnclearError:
            Shelf(self._config.data_dir, fill.job).forget(found.newest.name)
            raise

    def _learn(self, fill: Fill, found: Survey | None, done: Transferred, pulse: Pulse) -> None:
        """Learn from a transfer that was not complete; raise _AwayError when the client has left."""
        job = fill.job
        if found and done.exit in transfer.NOT_BY_NAME:
            Shelf(self._config.data_dir, job).forget(found.newest.name)
        if done.exit in transfer.LOST and not job.local:
            now = reach.look(job, self._config.known_hosts, pulse)
            if now.kind is reach.Kind.AWAY:
                self._keep(fill)
                self._saw(job, False, now.reason)
                raise _AwayError(f"it left during the backup, which continues when it is back: {now.reason}")

    def _commit(
        self, fill: Fill, found: Survey | None, done: Transferred, started: datetime, pulse: Pulse
    ) -> Attempt:
        """Make a snapshot of a filled tree, or hold it back."""
        job = fill.job
        suspicion = self._suspicion(fill, done, found, pulse)
        waiting = self._store.suspects(job)
        if suspicion and waiting:
            reason = f"{suspicion}; {held_back(job, waiting[-1])}"
            return self._give_up(fill, self._run(job, started, reason, done))
        disk.require_same(self._config, self._lock)
        if found:
            survey.require(self._config, job, found)
        self._board.mark(job, JobState.ROTATING)
        self._board.turn(ServerState.ROTATING, f"rotating '{job.index}'")
        snapshot = self._store.commit(fill, self._board.now, pulse, suspect=bool(suspicion))
        if suspicion:
            self._room.look(job)
            reason = f"{suspicion}; {held_back(job, snapshot)}"
            run = replace(self._run(job, started, reason, done, snapshot), outcome=JobState.FAILED)
            return Attempt(job, JobState.FAILED, reason, run)
        survey.remember(self._config, job, snapshot, found, started)
        return self._succeed(job, started, snapshot, done)

    def _copy(self, job: Job, started: datetime, pulse: Pulse) -> Attempt:
        """Take over the newest snapshot of another label, with that snapshot's time: it is its state."""
        originals = self._store.snapshots(replace(job, label=job.copy_of or ""))
        if not originals:
            raise _AwayError(f"there is no snapshot of {job.host}/{job.volume}/{job.copy_of} yet")
        original = originals[-1]
        fill = self._store.begin_copy(job, original, pulse)
        disk.require_same(self._config, self._lock)
        snapshot = self._store.commit(fill, lambda: original.taken, pulse)
        return self._succeed(job, started, snapshot, None)

    def _succeed(self, job: Job, started: datetime, snapshot: Snapshot, done: Transferred | None) -> Attempt:
        note = done.verdict.note if done else f"taken from {job.copy_of}"
        note = (note + self._room.retire(job)).strip()
        return Attempt(job, JobState.SUCCEEDED, note, self._run(job, started, note, done, snapshot))

    def _give_up(self, fill: Fill, run: Run) -> Attempt:
        """Keep what has arrived for the next run, and report the failure."""
        self._board.turn(ServerState.CLEANING, f"discarding '{fill.job.index}'")
        self._keep(fill)
        return Attempt(fill.job, JobState.FAILED, run.reason, run)

    def _begin_fill(self, job: Job, found: Survey | None, pulse: Pulse) -> tuple[Fill, Survey | None]:
        if found is not None:
            try:
                return self._store.begin_from(job, found.comparison, pulse), found
            except UnclearError as problem:
                LOG.warning("%s: every entry is compared: %s", job.name, problem.what)
        return self._store.begin(job, pulse), None

    def _survey(self, job: Job, address: str, shared: Path | None, pulse: Pulse) -> Survey | None:
        """Return what differs at the source, or None when every entry has to be compared."""
        complete = self._store.snapshots(job)
        newest = complete[-1] if complete else None
        shelf = Shelf(self._config.data_dir, job)
        obstacle = survey.obstacle(job, shelf, newest, self._board.now())
        if newest is None or obstacle:
            LOG.info("%s: every entry is compared: %s", job.name, obstacle)
            return None
        if not self._store.can_begin_from(job):
            LOG.info("%s: every entry is compared: nothing is prepared for less", job.name)
            return None
        try:
            found = survey.take(
                self._config,
                job,
                address,
                newest,
                now=self._board.now(),
                pulse=pulse,
                above=self._store.changes_folders,
                shared=shared,
            )
        except UnclearError as problem:
            LOG.info("%s: every entry is compared: %s", job.name, problem.what)
            return None
        count = len(found.comparison.new)
        LOG.info("%s: %d entries are looked at, all others are as listed", job.name, count)
        return found

    def _transfer(self, job: Job, address: str, shared: Path | None, fill: Fill, pulse: Pulse) -> Transferred:
        due = time.monotonic() + self._checkpoint

        def watch() -> None:
            nonlocal due
            pulse()
            if time.monotonic() >= due:
                self._room.stop_before_full(job)
                self._store.checkpoint(fill, pulse)
                due = time.monotonic() + self._checkpoint

        def on_progress(progress: Progress) -> None:
            running = self._board.running.get(job.name)
            if running:
                running.progress = progress

        return transfer.fill(
            self._config,
            job,
            address,
            fill.destination,
            pulse=watch,
            on_progress=on_progress,
            log=lambda line: LOG.info("%s: %s", job.name, line),
            lock=self._lock,
            shared=shared,
        )

    def _missing(self, fill: Fill, done: Transferred, pulse: Pulse) -> int:
        """Return how many of the files that rsync has listed did not arrive."""
        if not done.exit:
            return 0
        stored = changes.count(fill.tree, fill.tree, pulse)[1].files
        return max(0, done.regular - stored)

    def _suspicion(self, fill: Fill, done: Transferred, seen: Survey | None, pulse: Pulse) -> str | None:
        """Return why the filled tree should be held back, or None."""
        job, newest = fill.job, fill.newest
        if newest is None or not job.guard:
            return None
        history = self._history.runs(job.name, LEARNED)
        known = next((run for run in history if run.snapshot == newest.name), None)
        if seen is not None:
            found, before = survey.figures(seen)[0], guard.Totals(seen.known.files, seen.known.bytes)
        elif known is None or fill.continued or done.exit:
            # After anything but a clean end the figures count what did not arrive as unchanged.
            found, before = changes.count(newest.path, fill.tree, pulse)
        else:
            found = changes.from_figures(done.regular, done.bytes, done.changed, done.changed_bytes)
            before = guard.Totals(known.regular, known.bytes)
        complete = {each.name for each in self._store.snapshots(job)}
        here, there = transfer.source_identity(job), known.source if known else ""
        moved = bool(here and there) and here != there
        return guard.judge(found, before, guard.turnover(history, complete), job.guard_percent, moved=moved)

    def _keep(self, fill: Fill) -> None:
        """Make what has arrived safe for the run that continues it. Best effort: the disk may be gone."""
        try:
            if disk.look(self._config).present:
                self._store.checkpoint(fill, process.no_pulse)
        except (FlashbackError, OSError) as error:
            LOG.warning("%s: what has arrived cannot be synced: %s", fill.job.name, error)

    # --- the record ----------------------------------------------------------------------------------------

    def _run(
        self,
        job: Job,
        started: datetime,
        reason: str,
        done: Transferred | None = None,
        snapshot: Snapshot | None = None,
    ) -> Run:
        run = Run(
            job=job.name,
            started_at=started,
            finished_at=self._board.now(),
            outcome=JobState.SUCCEEDED if snapshot else JobState.FAILED,
            reason=reason,
            snapshot=snapshot.name if snapshot else None,
            source=transfer.source_identity(job) if snapshot else "",
        )
        if done is None:
            return run
        return replace(
            run,
            exit=done.exit,
            files=done.files,
            bytes=done.bytes,
            bytes_transferred=done.bytes_transferred,
            regular=done.regular,
            changed=done.changed,
            changed_bytes=done.changed_bytes,
        )

    def _fail(self, job: Job, started: datetime, reason: str) -> Attempt:
        return self._finish(Attempt(job, JobState.FAILED, reason, self._run(job, started, reason)))

    def _finish(self, attempt: Attempt) -> Attempt:
        """Record, log, publish and pass on what became of a job."""
        self._board.running.pop(attempt.job.name, None)
        self._board.mark(attempt.job, attempt.state, attempt.reason)
        if attempt.run is not None:
            self._record(attempt.run)
        LOG.log(logging.ERROR if attempt.state is JobState.FAILED else logging.INFO, "%s", describe(attempt))
        self._board.disk = disk.look(self._config)
        words = "was not found" if attempt.state is JobState.NOT_FOUND else attempt.state.value.lower()
        busy = bool(self._board.running)
        self._board.turn(
            ServerState.BACKING_UP if busy else ServerState.PREPARING, f"'{attempt.job.index}' {words}"
        )
        self._observer(attempt)
        return attempt

    def _record(self, run: Run) -> None:
        self._board.last_runs[run.job] = run
        if disk.look(self._config).present:
            self._history.add(run)


class _AwayError(NotNowError):
    """The client, or its source, is not there: nothing is wrong."""


class _NotBegunError(_AwayError):
    """The command before the backup says that this is not the moment."""


def _hook(
    job: Job, command: Sequence[str], pulse: Pulse, *, when: str, outcome: str = "", snapshot: str = ""
) -> None:
    """Run a command of the configuration; exit 0 is good, 75 means not now, all others mean failure."""
    if not command:
        return
    env = {
        "FLASHBACK_JOB": job.name,
        "FLASHBACK_HOST": job.host,
        "FLASHBACK_WHEN": when,
        "FLASHBACK_OUTCOME": outcome,
        "FLASHBACK_SNAPSHOT": snapshot,
    }
    done = process.run(command, pulse=pulse, timeout=job.timeout, cwd="/", env=env)
    if done.code == 0:
        return
    said = "; ".join(line.strip() for line in done.stderr.splitlines()[-3:] if line.strip())
    ended = "took too long" if done.timed_out else f"ended with status {done.code}"
    what = f"The command {when} {job.name}, {command[0]}, {ended}" + (f": {said}" if said else "")
    if done.code == NotNowError.exit_code and when == "before":
        raise _NotBegunError(what)
    raise FlashbackError(what)
