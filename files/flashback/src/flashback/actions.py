"""A pass: look at the disk, the clock and the snapshots, then run all jobs that are due.

It owns no loop and no process: the daemon and the command line call the same functions.
The jobs of a pass run in threads, as many at a time as the configuration allows and never
two of one client; the calling thread serves `pulse` and the observer meanwhile.  The
sacred rule: nothing begins unless the right disk is there and the clock can be trusted.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta

from flashback import care, clock, disk, pause, process, room, schedule
from flashback.attempt import CHECKPOINT, Attempt, Observer, Work
from flashback.errors import CancelledError, FlashbackError, NotNowError, StoppedError, UsageError
from flashback.history import History
from flashback.model import Config, Job, JobState, Pulse, ServerState
from flashback.status import Board, document, queue_table
from flashback.store import Store, open_store

LOG = logging.getLogger("flashback")
# Seconds between two writings of the status during a transfer.
REPORT = 5.0
# How far back the record of presence is read.
REMEMBERED = timedelta(days=400)

Cancelled = Callable[[Job], bool]


def observe_nothing(attempt: Attempt) -> None:
    """Take notice of an attempt in no way."""


def nothing_cancelled(job: Job) -> bool:  # noqa: ARG001 - the signature is what counts
    """Cancel no job."""
    return False


def refresh(board: Board, pulse: Pulse = process.no_pulse) -> None:
    """Look at disk, snapshots, clock and history, and put what is found on the board."""
    config, now = board.config, board.now()
    board.disk = disk.look(config)
    if board.disk.present:
        store = open_store(config.data_dir)
        board.store = store.kind
        board.snapshots = {job.name: store.snapshots(job) for job in config.jobs}
        board.suspects = {job.name: store.suspects(job) for job in config.jobs}
        history = History(config.data_dir)
        board.last_runs = history.last_runs()
        board.presences = history.presences(now - REMEMBERED)
        board.pauses = pause.load(config.data_dir, now)
        board.care = care.load(config.data_dir)
    board.clock = _clock_problem(board, pulse) or ""


def run_pass(
    board: Board,
    pulse: Pulse,
    *,
    target: str | None = None,
    observer: Observer = observe_nothing,
    cancelled: Cancelled = nothing_cancelled,
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
            store = open_store(board.config.data_dir)
            _tidy(board, store, pulse)
            jobs = due(board) if named is None else named
            said: queue.SimpleQueue[Attempt] = queue.SimpleQueue()
            work = Work(board, store, lock, said.put, CHECKPOINT if checkpoint is None else checkpoint)
            crew = _Crew(board, work, pulse, cancelled, lambda: _pass_on(said, observer))
            done = crew.run(jobs)
            if done and board.disk is not None:
                History(board.config.data_dir).note_disk_use(board.now(), board.disk)
                _log_queue(board)
            return done
    except NotNowError as problem:
        board.running.clear()
        if not isinstance(problem, StoppedError):
            board.turn(ServerState.PREPARING, f"waiting: {problem.what}", problem.what)
        raise


def sweep(config: Config, pulse: Pulse) -> None:
    """Delete what has expired, where no daemon does it between the backups."""
    with disk.locked(config):
        room.sweep(open_store(config.data_dir), config.jobs, pulse)


def _log_queue(board: Board) -> None:
    """Let the log tell how all jobs stand after a pass that did something."""
    now = board.now()
    for line in queue_table(document(board, now)["jobs"], now):
        LOG.info("%s", line)


def known(config: Config, target: str) -> list[Job]:
    """Return the jobs that HOST, HOST/VOLUME or HOST/VOLUME/LABEL names; raise UsageError when none."""
    parts = target.strip("/").split("/")
    found = [job for job in config.jobs if [job.host, job.volume, job.label][: len(parts)] == parts]
    if not found:
        names = ", ".join(job.name for job in config.jobs) or "none at all"
        raise UsageError(f"No job is called {target}", f"Known are {names}")
    return found


def select(config: Config, target: str) -> list[Job]:
    """Return the jobs of a target that may run; raise UsageError when there are none."""
    found = known(config, target)
    enabled = [job for job in found if not job.disabled]
    if not enabled:
        raise UsageError(f"{target} is disabled", "Remove `disabled: true` from the configuration")
    return enabled


def exit_code(attempts: Sequence[Attempt]) -> int:
    """Return 0 when all went well, 1 when a job failed, 75 when none failed but one could not run now."""
    states = {attempt.state for attempt in attempts}
    if JobState.FAILED in states:
        return 1
    return NotNowError.exit_code if states & {JobState.NOT_FOUND, JobState.READY} else 0


def due(board: Board) -> list[Job]:
    """Return the jobs that a pass would run now, the most overdue first."""
    now = board.now()
    return schedule.due(board.standings(), now, now.astimezone())


def _clock_problem(board: Board, pulse: Pulse) -> str | None:
    if board.config.wait_for_sync:
        problem = clock.unsynchronised(pulse)
        if problem:
            return problem
    newest = [board.newest(job) for job in board.config.jobs]
    return schedule.clock_problem(newest, board.now(), synchronised=board.config.wait_for_sync)


def _tidy(board: Board, store: Store, pulse: Pulse) -> None:
    """Give snapshots from the future a possible name."""
    for job in board.config.jobs:
        pulse()
        try:
            _rename_future(board, store, job)
        except FlashbackError as error:
            LOG.error("%s: a snapshot from the future cannot be renamed: %s", job.name, error)


def _rename_future(board: Board, store: Store, job: Job) -> None:
    """Give the snapshots of a job that bear a time from the future a possible one; marks go with them."""
    found = {each.taken: each for each in board.snapshots.get(job.name, [])}
    names = schedule.misnamed(list(found), board.now())
    if not names:
        return
    from flashback import manifest  # noqa: PLC0415 - only for this rare case

    notes = store.notes(job)
    for old, new in names:
        renamed = store.rename(job, found[old], new)
        if old in notes:
            store.note(job, new, notes[old])
            store.note(job, old, None)
        manifest.renamed(board.config, job, found[old].name, renamed.name)
    board.snapshots[job.name] = store.snapshots(job)


def _pass_on(said: queue.SimpleQueue[Attempt], observer: Observer) -> None:
    while not said.empty():
        observer(said.get())


class _held_open:  # noqa: N801 - reads as a word after `with`
    """Keeps the disk from being unmounted quietly while a pass works on it."""

    def __init__(self, config: Config) -> None:
        self._path = config.data_dir

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class _Crew:
    """Runs jobs in threads: never two of one client, never more than allowed."""

    def __init__(
        self, board: Board, work: Work, pulse: Pulse, cancelled: Cancelled, between: Callable[[], None]
    ) -> None:
        self._board = board
        self._work = work
        self._pulse = pulse
        self._cancelled = cancelled
        self._between = between
        self._stop = threading.Event()

    def run(self, jobs: Sequence[Job]) -> list[Attempt]:
        """Run the jobs and return what became of each, in the order in which they ended."""
        pending, active, done = list(jobs), dict[Future[Attempt], Job](), list[Attempt]()
        with ThreadPoolExecutor(max_workers=self._board.config.concurrency) as pool:
            try:
                while pending or active:
                    self._start(pool, pending, active)
                    finished, _ = wait(active, timeout=0.5, return_when=FIRST_COMPLETED)
                    self._between()
                    self._pulse()
                    self._board.publish_if_older(REPORT)
                    for each in finished:
                        del active[each]
                        done.append(each.result())
            except BaseException:
                self._stop.set()
                raise
        self._between()
        return done

    def _start(
        self, pool: ThreadPoolExecutor, pending: list[Job], active: dict[Future[Attempt], Job]
    ) -> None:
        for job in list(pending):
            if len(active) >= self._board.config.concurrency:
                return
            if job.host not in {each.host for each in active.values()}:
                pending.remove(job)
                active[pool.submit(self._work.attempt, job, self._pulse_of(job))] = job

    def _pulse_of(self, job: Job) -> Pulse:
        def pulse() -> None:
            if self._stop.is_set():
                raise StoppedError
            if self._cancelled(job):
                raise CancelledError

        return pulse
