"""Say in plain words why a job does or does not run now.

It looks at the same things as a pass, in the same order, and changes nothing.  The sacred
rule: the verdict is made by the functions that decide in a pass, never by a copy of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashback import actions, control, disk, reach, schedule, transfer
from flashback.model import Job, JobState
from flashback.status import Board, held_back, read


@dataclass(frozen=True)
class Answer:
    """The verdict on a job and the reasons, each a sentence without a dot."""

    job: str
    runs: bool
    verdict: str
    reasons: tuple[str, ...]


def explain(board: Board, target: str, probe: bool) -> list[Answer]:
    """Return an answer for each job that the target names; with `probe` its client is looked for."""
    actions.refresh(board)
    jobs = [job for job in board.config.jobs if control.names(target, job)] or actions.select(
        board.config, target
    )
    return [_answer(board, job, probe) for job in jobs]


def _answer(board: Board, job: Job, probe: bool) -> Answer:
    now = board.now()
    standing = board.standing(job)
    reasons = schedule.explain(standing, now, now.astimezone())
    obstacles = _obstacles(board)
    due = schedule.is_due(standing, now)
    hold = schedule.held(standing, now, now.astimezone()) if due else ""
    away = _away(board, job) if probe and due and not obstacles and not hold and job.copy_of is None else ""
    reasons += _past(board, job)
    if job.disabled:
        verdict = "it is disabled"
    elif obstacles:
        verdict = obstacles[0]
    elif not due:
        verdict = "it is not due"
    else:
        verdict = hold or away
    if verdict:
        return Answer(job.name, False, verdict, (*obstacles[1:], *reasons))
    return Answer(job.name, True, _when(board, job), tuple(reasons))


def _obstacles(board: Board) -> list[str]:
    """Return what keeps every job from running."""
    found = []
    seen = board.disk or disk.look(board.config)
    if not seen.present:
        found.append(f"the backup disk is not there: {seen.reason}")
    if board.clock:
        found.append(board.clock)
    return found


def _away(board: Board, job: Job) -> str:
    found = reach.look(job, board.config.known_hosts)
    if found.kind is not reach.Kind.REACHABLE:
        return found.reason
    if job.removable and transfer.source_missing(board.config, job, found.address, lambda: None):
        return f"{job.source} is not there (removable)"
    return ""


def _past(board: Board, job: Job) -> list[str]:
    lines = []
    suspects = board.suspects.get(job.name, [])
    if suspects:
        lines.append(held_back(job, suspects[-1]))
    last = board.last_runs.get(job.name)
    if last is not None and last.outcome is JobState.FAILED:
        lines.append(f"its last attempt failed at {last.finished_at:%Y-%m-%d %H:%M} UTC: {last.reason}")
    return lines


def _when(board: Board, job: Job) -> str:
    """Return what a job that may run is waiting for: its turn, the next pass, or the engine itself."""
    made = read(board.config.run_dir)
    if made is None or made["engine"]["state"] == "DOWN":
        return "it would run now, but the engine is not running: `flashback pass` runs it"
    running = [each["job"] for each in made["running"]]
    if job.name in running:
        return "it is running"
    if running:
        return f"it runs after {', '.join(running)}"
    return f"it runs at the next pass, {made['next_pass_at'] or 'which is about to begin'}"
