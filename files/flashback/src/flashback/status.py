"""The one status document, and the two text files of 2014 beside it.

Everything that shows something (the LED, a page, a check, a mail) reads `status.json` and
nothing else.  `Board` is what the engine knows at a moment; `document`, `status_text`,
`queue_text` and `health` are functions of their arguments alone.

The sacred rule: a reader never sees half a document, and never takes a dead engine's last
words for health.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flashback import __version__, pause, schedule, smart
from flashback.disk import Disk
from flashback.model import (
    Config,
    Job,
    JobState,
    Presence,
    Progress,
    Run,
    ServerState,
    Snapshot,
    iso,
    moment,
)

LOG = logging.getLogger("flashback.status")
VERSION = 1
# A working engine writes every few seconds, a sleeping one every minute.
STALE = timedelta(minutes=3)

Document = dict[str, Any]


@dataclass
class Running:
    """A job at work, and how far it is."""

    job: Job
    since: datetime
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True)
class Drill:
    """The last restore drill of a client."""

    host: str
    at: datetime
    snapshot: str
    good: bool
    reason: str


@dataclass(frozen=True)
class Doors:
    """What the engine's key can do at a client besides reading; nothing is as it should be."""

    host: str
    at: datetime
    problems: Sequence[str]

    def __str__(self) -> str:
        """Return what was found in words."""
        if not self.problems:
            return f"{self.host}: the key can read and nothing else"
        return f"{self.host}: the key {' and '.join(self.problems)}"


@dataclass(frozen=True)
class Care:
    """What is known beyond the last pass: stored data read again, restores tried, the disk's future."""

    damaged: tuple[str, ...] = ()
    """Stored files known to be damaged, as HOST/VOLUME/LABEL/SNAPSHOT/PATH."""
    verified_at: datetime | None = None
    drills: tuple[Drill, ...] = ()
    doors: tuple[Doors, ...] = ()
    proven: Mapping[str, datetime] = field(default_factory=dict)
    """The newest snapshot of each job from which a restore was proven."""
    forecast: str = ""
    """When the disk will be full, in a sentence."""


@dataclass
class Board:
    """What the engine knows at this moment; the actions write on it, `publish` makes it public."""

    config: Config
    now: Callable[[], datetime]
    state: ServerState = ServerState.PRESTART
    since: datetime = schedule.EPOCH
    reason: str = ""
    activity: str = "not yet started"
    error: str = ""
    """What kept the last pass from its work although it was the time for it, in a sentence."""
    clock: str = ""
    config_error: str | None = None
    disk: Disk | None = None
    next_pass_at: datetime | None = None
    pass_started: datetime | None = None
    store: str = ""
    """The kind of storage on the disk."""
    running: dict[str, Running] = field(default_factory=dict)
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    suspects: dict[str, list[Snapshot]] = field(default_factory=dict)
    marks: dict[str, tuple[JobState, str]] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)
    """What a person must look at before a job can run, such as a wrong machine at its address."""
    last_runs: dict[str, Run] = field(default_factory=dict)
    presences: dict[str, list[Presence]] = field(default_factory=dict)
    """What the probes said, by `watched`."""
    pauses: dict[str, datetime] = field(default_factory=dict)
    shortage: str = ""
    """Why the disk is too full, in a sentence."""
    care: Care = field(default_factory=Care)
    neglect: str = ""
    """What of looking after the stored data failed, in a sentence."""
    _published: float = 0.0
    _unwritten: str = ""
    """Why the status could not be written the last time."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def turn(self, state: ServerState, activity: str, reason: str = "") -> None:
        """Enter a state of the server and publish it."""
        with self._lock:
            if state != self.state:
                self.since = self.now()
            self.state, self.activity, self.reason = state, activity, reason
            self.publish()

    def mark(self, job: Job, state: JobState, reason: str = "") -> None:
        """Set the state of one job until it is marked again."""
        self.marks[job.name] = (state, reason)

    @property
    def current(self) -> Running | None:
        """Return the job that has been at work for the longest."""
        return next(iter(self.running.values()), None)

    def newest(self, job: Job) -> datetime | None:
        """Return when the newest snapshot of a job was taken."""
        found = self.snapshots.get(job.name)
        return found[-1].taken if found else None

    def standings(self) -> list[schedule.Standing]:
        """Return all jobs with what decides about them."""
        return [self.standing(job) for job in self.config.jobs]

    def standing(self, job: Job) -> schedule.Standing:
        """Return what decides about a job."""
        last = self.last_runs.get(job.name)
        original = self.snapshots.get(f"{job.host}/{job.volume}/{job.copy_of}")
        return schedule.Standing(
            job=job,
            newest=self.newest(job),
            original=original[-1].taken if original else None,
            failed=last is not None and last.outcome is JobState.FAILED,
            paused_until=pause.of(self.pauses, job),
            presences=tuple(self.presences.get(watched(job), ())),
        )

    def publish_if_older(self, seconds: float) -> None:
        """Publish when the last time is longer ago than that."""
        if time.monotonic() - self._published >= seconds:
            self.publish()

    def publish(self) -> None:
        """Write status.json, status and queue; each appears whole.

        No room for them ends no backup: a status that grows old is seen by its readers.
        """
        with self._lock:
            self._published = time.monotonic()
            now = self.now()
            made = document(self, now)
            run_dir = self.config.run_dir
            try:
                run_dir.mkdir(parents=True, exist_ok=True)
                _write(run_dir / "status.json", json.dumps(made, indent=1) + "\n")
                _write(run_dir / "status", status_text(made, now))
                _write(run_dir / "queue", queue_text(made, now, self.activity))
            except OSError as error:
                if str(error) != self._unwritten:
                    LOG.error("The status in %s cannot be written: %s", run_dir, error)
                self._unwritten = str(error)
            else:
                self._unwritten = ""


def watched(job: Job) -> str:
    """Return the name under which a job's presence is remembered: its client's, or its own for a medium."""
    return job.name if job.removable else job.host


def document(board: Board, now: datetime) -> Document:
    """Return the status document of this moment (schema/status-1.json)."""
    config = board.config
    return {
        "version": VERSION,
        "written_at": iso(now),
        "engine": {
            "version": __version__,
            "pid": os.getpid(),
            "state": board.state.value,
            "since": iso(board.since),
            "reason": board.reason,
            "error": board.error,
        },
        "clock": {"problem": board.clock},
        "config": {"path": str(config.path), "error": board.config_error},
        "disk": _disk(board, now),
        "led": {"green": config.led_green, "red": config.led_red},
        "interval_seconds": config.interval,
        "next_pass_at": iso(board.next_pass_at),
        "paused_until": iso(board.pauses.get("")),
        "current": _running(board.current, now) if board.current else None,
        "running": [_running(each, now) for each in list(board.running.values())],
        "verification": {
            "verified_at": iso(board.care.verified_at),
            "damaged": len(board.care.damaged),
            "damaged_files": list(board.care.damaged[:20]),
            "error": board.neglect,
        },
        "drills": [
            {
                "host": each.host,
                "at": iso(each.at),
                "snapshot": each.snapshot,
                "good": each.good,
                "reason": each.reason,
            }
            for each in board.care.drills
        ],
        "doors": [
            {"host": each.host, "at": iso(each.at), "problems": list(each.problems)}
            for each in board.care.doors
        ],
        "jobs": [_job(board, each, now) for each in schedule.in_order(board.standings(), now)],
    }


def _disk(board: Board, now: datetime) -> Document:
    disk = board.disk or Disk(board.config.data_dir, False, "not looked at yet")
    health = smart.read(board.config.smart, now)
    return {
        "mount": str(disk.mount),
        "present": disk.present,
        "reason": disk.reason,
        "locked": disk.locked,
        "id": disk.id,
        "filesystem": disk.filesystem,
        "store": board.store,
        "total_bytes": disk.total,
        "used_bytes": disk.used,
        "free_bytes": disk.free,
        "inodes": disk.inodes,
        "free_inodes": disk.inodes_free,
        "shortage": board.shortage,
        "forecast": board.care.forecast,
        "smart": {
            "known": health.known,
            "at": iso(health.at),
            "problems": list(health.problems),
            "temperature_celsius": health.temperature,
            "power_on_hours": health.hours,
            "replaced_sectors": health.replaced,
        },
    }


def _running(running: Running, now: datetime) -> Document:
    job, progress = running.job, running.progress
    return {
        "job": job.name,
        "host": job.host,
        "volume": job.volume,
        "label": job.label,
        "started_at": iso(running.since),
        "seconds": max(0, int((now - running.since).total_seconds())),
        "files": progress.files,
        "bytes": progress.bytes,
        "percent": progress.percent,
        "rate": progress.rate,
        "seconds_left": progress.seconds_left,
    }


def _job(board: Board, standing: schedule.Standing, now: datetime) -> Document:
    job = standing.job
    state, reason = _state(board, standing, now)
    found = board.snapshots.get(job.name, [])
    last = found[-1] if found else None
    late = schedule.lateness(standing, now)
    suspects = board.suspects.get(job.name, [])
    due = schedule.is_due(standing, now)
    last_run = board.last_runs.get(job.name)
    return {
        "name": job.name,
        "host": job.host,
        "volume": job.volume,
        "label": job.label,
        "state": state.value,
        "reason": reason,
        "last_snapshot": last and {"name": last.name, "path": str(last.path), "taken_at": iso(last.taken)},
        "age_seconds": schedule.age(last.taken, now) if last else None,
        "period_seconds": job.period,
        "due_in_seconds": schedule.due_in(standing, now) if last else 0,
        "snapshots": len(found),
        "keep": {each.name: getattr(job.keep, each.name) for each in fields(job.keep)},
        "suspects": [each.name for each in suspects],
        "held": schedule.held(standing, now, now.astimezone()) if due else "",
        "paused_until": iso(standing.paused_until),
        "present": standing.presences[-1].present if standing.presences else None,
        "late": {"kind": late.kind, "seconds": late.seconds},
        "alarm": board.alarms.get(job.name, ""),
        "last_run": run_document(last_run) if last_run else None,
    }


def _state(  # noqa: PLR0911 - one line for each answer
    board: Board, standing: schedule.Standing, now: datetime
) -> tuple[JobState, str]:
    """Return how a job stands: what it is doing, else how its last attempt ended, else whether it is due."""
    job = standing.job
    if job.disabled:
        return JobState.DISABLED, ""
    if job.name in board.running:
        return board.marks.get(job.name, (JobState.BACKING_UP, ""))
    suspects = board.suspects.get(job.name)
    if suspects:
        return JobState.FAILED, held_back(job, suspects[-1])
    if job.name in board.marks:
        return board.marks[job.name]
    last = board.last_runs.get(job.name)
    if last is not None and last.outcome is JobState.FAILED:
        return JobState.FAILED, last.reason
    if schedule.is_due(standing, now):
        return JobState.READY, ""
    # As in 2014, success shows until the next pass; unlike then, it survives a restart.
    shown_since = board.pass_started or now - timedelta(seconds=board.config.interval)
    if (
        last is not None
        and last.outcome is JobState.SUCCEEDED
        and last.finished_at >= shown_since.replace(microsecond=0)
    ):
        return JobState.SUCCEEDED, last.reason
    return JobState.NOT_READY, ""


def held_back(job: Job, suspect: Snapshot) -> str:
    """Return what to do about a snapshot that the guard held back."""
    return (
        f"{suspect.name} is held back, nothing expires: look at {suspect.path}, then "
        f"`flashback accept {job.name}` or `flashback reject {job.name}`"
    )


def run_document(run: Run) -> Document:
    """Return a run as the documents write it."""
    return {
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "outcome": run.outcome.value,
        "exit": run.exit,
        "reason": run.reason,
        "snapshot": run.snapshot,
        "files": run.files,
        "bytes": run.bytes,
        "bytes_transferred": run.bytes_transferred,
        "changed_files": run.changed,
        "duration_seconds": run.duration,
    }


# --- the text files of 2014 --------------------------------------------------------------------------------


def minutes_left(made: Mapping[str, Any], now: datetime) -> int:
    """Return the whole minutes until the next pass, rounded up; 0 when not sleeping."""
    at = made["next_pass_at"]
    if made["engine"]["state"] != ServerState.IDLE.value or at is None:
        return 0
    return max(0, -(-int((moment(at) - now).total_seconds()) // 60))


def status_text(made: Document, now: datetime) -> str:
    """Return the file `status`: one key=value a line, local time."""
    local = now.astimezone()
    current = made["current"]
    disk = made["disk"]
    lines = [
        f"date={local:%Y-%m-%d}",
        f"time={local:%H:%M:%S}",
        f"pid={made['engine']['pid']}",
        f"status={made['engine']['state']}",
        f"target={_index(current) if current else ''}",
        f"wait={minutes_left(made, now)}",
        f"disk.mntpt={disk['mount']}",
        f"disk.mounted={'true' if disk['present'] else 'false'}",
    ]
    if disk["present"]:
        total = disk["total_bytes"]
        lines += [f"disk.{name}.bytes={disk[f'{name}_bytes']}" for name in ("total", "used", "free")]
        for name in ("used", "free"):
            share = 100.0 * disk[f"{name}_bytes"] / total if total else 0.0
            lines.append(f"disk.{name}.percent={share:.2f}")
    return "\n".join(lines) + "\n"


def queue_text(made: Document, now: datetime, activity: str) -> str:
    """Return the file `queue`: what is going on, then the table of jobs, local time."""
    lines = [f"{now.astimezone():%Y-%m-%d %H:%M:%S} : {activity}", ""]
    if made["engine"]["state"] in (ServerState.PRESTART.value, ServerState.DOWN.value):
        lines.append("NOT YET STARTED")
    else:
        lines += queue_table(made["jobs"], now)
    return "\n".join(lines) + "\n"


def queue_table(jobs: Sequence[Document], now: datetime) -> list[str]:
    """Return the lines of the table, its head first."""
    rows = _queue_cells(jobs, now)
    width = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    width[1] = len("2013-03-20 21:05:18")
    head = "   ".join(["INDEX".center(width[0]), "LAST BACKUP".center(width[1]), "AGE".center(width[2])])
    lines = [f"{head}/{'CYCLE'.center(width[3])}   STATUS"]
    for index, last, age, cycle, wording in rows:
        lines.append(
            f"{index.ljust(width[0])}   {last}   {age.rjust(width[2])}/{cycle.ljust(width[3])}   {wording}"
        )
    return lines


def queue_rows(jobs: Sequence[Document], now: datetime) -> list[tuple[str, ...]]:
    """Return the cells of the same table, its head first."""
    rows = _queue_cells(jobs, now)
    return [
        ("INDEX", "LAST BACKUP", "AGE/CYCLE", "STATUS"),
        *((index, last, f"{age}/{cycle}", wording) for index, last, age, cycle, wording in rows),
    ]


def _queue_cells(jobs: Sequence[Document], now: datetime) -> list[tuple[str, str, str, str, str]]:
    return [
        (_index(job), _last_backup(job), str(_age(job, now)), str(job["period_seconds"]), _wording(job))
        for job in jobs
    ]


def _index(job: Mapping[str, Any]) -> str:
    return f"{job['host']}-{job['volume']}-{job['label']}"


def _last_backup(job: Document) -> str:
    last = job["last_snapshot"]
    taken = moment(last["taken_at"]) if last else schedule.EPOCH
    return f"{taken.astimezone():%Y-%m-%d %H:%M:%S}"


def _age(job: Document, now: datetime) -> int:
    age = job["age_seconds"]
    return schedule.age(None, now) if age is None else int(age)


def _wording(job: Document) -> str:
    last = job["last_run"]
    took = schedule.spell(last["duration_seconds"]) if last else schedule.spell(0)
    words = {
        JobState.UNKNOWN: "???",
        JobState.NOT_READY: f"NEXT RUN IN {schedule.spell(job['due_in_seconds'])}",
        JobState.NOT_FOUND: "NOT FOUND",
        JobState.BACKING_UP: "BACKING UP",
        JobState.SUCCEEDED: f"SUCCEEDED ({took})",
        JobState.FAILED: f"FAILED ({took})",
    }
    state = JobState(job["state"])
    return words.get(state, state.value)


# --- reading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """How things stand: whether the engine runs, and every problem in words."""

    running: bool
    problems: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Return whether nothing needs a person."""
        return self.running and not self.problems


def health(made: Mapping[str, Any] | None, now: datetime, pid_alive: Callable[[int], bool]) -> Health:
    """Return how things stand according to a document. Silence is not health: age counts, not events."""
    if made is None:
        return Health(False, ("the engine has not written a status yet",))
    engine = made["engine"]
    if engine["state"] == ServerState.DOWN.value:
        return Health(False, ("the engine is stopped",))
    if not pid_alive(int(engine["pid"])):
        return Health(False, ("the engine is dead",))
    patience = STALE
    if engine["state"] == ServerState.IDLE.value:
        patience += timedelta(seconds=int(made["interval_seconds"]))
    if now - moment(made["written_at"]) > patience:
        return Health(False, (f"the engine hangs since {made['written_at']}",))
    problems = _engine_problems(made) + _care_problems(made)
    for job in made["jobs"]:
        problems += _job_problems(job)
    return Health(True, tuple(problems))


def _engine_problems(made: Mapping[str, Any]) -> list[str]:
    """Return what keeps the engine as a whole from its work."""
    found = []
    if made["engine"].get("error"):
        found.append(f"the last pass failed: {made['engine']['error']}")
    if not made["disk"]["present"]:
        found.append(f"the backup disk is missing: {made['disk']['reason']}")
    if made["config"]["error"]:
        found.append(f"the configuration is broken, the last good one is used: {made['config']['error']}")
    if made["clock"]["problem"]:
        found.append(made["clock"]["problem"])
    if made["disk"]["shortage"]:
        found.append(made["disk"]["shortage"])
    if made["disk"].get("smart", {}).get("problems"):
        found.append(
            f"the backup disk is ill: {', '.join(made['disk']['smart']['problems'])}; replace it soon"
        )
    return found


def _care_problems(made: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with stored data, or with looking after it."""
    found = []
    if made["verification"].get("error"):
        found.append(f"stored data cannot be looked after: {made['verification']['error']}")
    damaged = made["verification"]["damaged"]
    if damaged:
        first = made["verification"]["damaged_files"][0]
        found.append(
            f"{damaged} stored files are damaged, the first is {first}; `flashback damage` lists them"
        )
    found += [
        f"the restore drill of {drill['host']} failed: {drill['reason']}"
        for drill in made["drills"]
        if not drill["good"]
    ]
    return found + [
        f"this server's key {' and '.join(doors['problems'])} at {doors['host']}: enrol that client again"
        for doors in made.get("doors", ())
        if doors["problems"]
    ]


def _job_problems(job: Document) -> list[str]:  # noqa: PLR0911 - one line for each answer
    if job["state"] == JobState.DISABLED.value:
        return []
    if job["suspects"]:
        return [f"{job['name']}: {job['reason']}"]
    if job["alarm"]:
        return [f"{job['name']}: {job['alarm']}"]
    last = job["last_run"]
    if last and last["outcome"] == JobState.FAILED.value:
        return [f"{job['name']} failed: {last['reason']}"]
    because = f": {job['reason']}" if job["reason"] else ""
    if job["age_seconds"] is None:
        return [f"{job['name']} has no snapshot yet{because}"]
    late = job["late"]
    if late["kind"] == "away":
        return [f"{job['name']}: its client is away for {schedule.plain(late['seconds'])}{because}"]
    if late["kind"] == "late":
        return [
            f"{job['name']} is late: due for {schedule.plain(late['seconds'])} while it could run{because}"
        ]
    return []


def read(run_dir: Path) -> Document | None:
    """Return the document in that directory, or None when there is none that can be read."""
    try:
        made = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and made.get("version") == VERSION else None


def pid_alive(pid: int) -> bool:
    """Return whether that process is an engine; another program may have got the number since."""
    try:
        return b"flashback" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new one. No fsync: it lives in memory."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)
