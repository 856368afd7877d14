"""Remember every run, every presence and the use of the disk, in one SQLite file on the backup disk.

What happened survives a restart, a new stick and a new board.  This module only appends
and reads.  The sacred rule: history never stops a backup; a damaged file is set aside
and a new one begun.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flashback.disk import META, Disk
from flashback.model import DiskUse, JobState, Presence, Run, iso, moment

if TYPE_CHECKING:
    import sqlite3

LOG = logging.getLogger("flashback.history")
VERSION = 2
# Years of daily figures fit into a megabyte; probes come every few minutes and are kept as spans.
KEPT_DAYS = 800
_COLUMNS = (
    "job, started_at, finished_at, outcome, exit, reason, snapshot, files, bytes, bytes_transferred,"
    " regular, changed, changed_bytes, source"
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    job TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT NOT NULL,
    outcome TEXT NOT NULL,
    exit INTEGER,
    reason TEXT NOT NULL,
    snapshot TEXT,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    bytes_transferred INTEGER NOT NULL,
    regular INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    changed_bytes INTEGER NOT NULL,
    source TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS runs_by_job ON runs (job, id);
CREATE TABLE IF NOT EXISTS presences (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    present INTEGER NOT NULL,
    since TEXT NOT NULL,
    until TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS presences_by_host ON presences (host, id);
CREATE TABLE IF NOT EXISTS disk_use (
    at TEXT PRIMARY KEY,
    used INTEGER NOT NULL,
    total INTEGER NOT NULL,
    inodes_used INTEGER NOT NULL,
    inodes INTEGER NOT NULL
);
"""
# How the tables of an older version become those of this one.
_UPGRADES = {1: "ALTER TABLE runs ADD COLUMN source TEXT NOT NULL DEFAULT '';"}
T = TypeVar("T")


class History:
    """The runs of one disk."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / META / "history.db"

    def add(self, run: Run) -> None:
        """Append a run; a failure to do so is logged, not raised."""
        values = (
            run.job,
            iso(run.started_at),
            iso(run.finished_at),
            run.outcome.value,
            run.exit,
            run.reason,
            run.snapshot,
            run.files,
            run.bytes,
            run.bytes_transferred,
            run.regular,
            run.changed,
            run.changed_bytes,
            run.source,
        )
        marks = ", ".join("?" * len(values))
        self._do(lambda db: db.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES ({marks})", values), None)  # noqa: S608 - constants

    def last_runs(self) -> dict[str, Run]:
        """Return the last run of every job by the job's name; empty when nothing can be read."""
        query = f"SELECT {_COLUMNS} FROM runs WHERE id IN (SELECT max(id) FROM runs GROUP BY job)"  # noqa: S608 - constants
        return self._do(lambda db: {row[0]: _run(row) for row in db.execute(query)}, {})

    def runs(self, target: str | None, limit: int) -> list[Run]:
        """Return the last runs of a host, a volume or a job, or of all with None, the newest first."""
        begin = f"{target.strip('/')}/" if target else ""
        query = f"SELECT {_COLUMNS} FROM runs WHERE substr(job || '/', 1, ?) = ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants
        asked = (len(begin), begin, limit)
        return self._do(lambda db: [_run(row) for row in db.execute(query, asked)], [])

    def saw(self, host: str, present: bool, at: datetime, reason: str, gap: timedelta) -> None:
        """Record a probe: it prolongs the last span when that says the same and is not older than `gap`."""

        def work(db: sqlite3.Connection) -> None:
            row = db.execute(
                "SELECT id, present, until FROM presences WHERE host = ? ORDER BY id DESC LIMIT 1", (host,)
            ).fetchone()
            if row and bool(row[1]) is present and timedelta(0) <= at - moment(row[2]) <= gap:
                db.execute(
                    "UPDATE presences SET until = ?, reason = ? WHERE id = ?", (iso(at), reason, row[0])
                )
            else:
                db.execute(
                    "INSERT INTO presences (host, present, since, until, reason) VALUES (?, ?, ?, ?, ?)",
                    (host, present, iso(at), iso(at), reason),
                )

        self._do(work, None)

    def presences(self, since: datetime) -> dict[str, list[Presence]]:
        """Return the spans of presence and absence that end after a moment, by host, the oldest first."""

        def work(db: sqlite3.Connection) -> dict[str, list[Presence]]:
            found: dict[str, list[Presence]] = {}
            query = "SELECT host, present, since, until, reason FROM presences WHERE until >= ? ORDER BY id"
            for host, present, begin, end, reason in db.execute(query, (iso(since),)):
                found.setdefault(host, []).append(Presence(bool(present), moment(begin), moment(end), reason))
            return found

        return self._do(work, {})

    def note_disk_use(self, at: datetime, use: Disk) -> None:
        """Record how full the disk is, and forget what is too old to matter."""
        values = (iso(at), use.used, use.total, use.inodes - use.inodes_free, use.inodes)

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO disk_use VALUES (?, ?, ?, ?, ?)", values)
            for table, column in (("disk_use", "at"), ("presences", "until"), ("runs", "finished_at")):
                oldest = iso(at - timedelta(days=KEPT_DAYS))
                db.execute(f"DELETE FROM {table} WHERE {column} < ?", (oldest,))  # noqa: S608 - constants

        self._do(work, None)

    def disk_use(self, since: datetime) -> list[DiskUse]:
        """Return how full the disk was since a moment, the oldest first."""
        query = "SELECT at, used, total, inodes_used, inodes FROM disk_use WHERE at >= ? ORDER BY at"
        return self._do(
            lambda db: [DiskUse(moment(row[0]), *row[1:]) for row in db.execute(query, (iso(since),))], []
        )

    def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Do something with the database; a damaged one is set aside and the work done on a new one."""
        import sqlite3  # noqa: PLC0415 - a megabyte that the sleeping daemon can do without

        try:
            try:
                return self._once(work)
            except sqlite3.OperationalError:
                raise
            except (sqlite3.DatabaseError, ValueError) as error:
                self._set_aside(str(error))
                return self._once(work)
        except (sqlite3.Error, OSError) as error:
            LOG.error("The history %s cannot be used now: %s", self._file, error)
        return otherwise

    def _once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        import sqlite3  # noqa: PLC0415 - as above

        if not self._file.parent.is_dir():
            raise sqlite3.OperationalError("the backup disk is not there")
        db = sqlite3.connect(self._file, timeout=10)
        try:
            # A rollback journal, written through: the one mode that survives a pulled USB plug everywhere.
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = FULL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                db.executescript(_UPGRADES.get(version, _SCHEMA))
                db.execute(f"PRAGMA user_version = {VERSION}")
            with db:
                return work(db)
        finally:
            db.close()

    def _set_aside(self, why: str) -> None:
        aside = self._file.with_name(f"history.db.damaged-{int(time.time())}")
        LOG.error(
            "The history %s is damaged (%s): set aside as %s, a new one is begun", self._file, why, aside.name
        )
        try:
            self._file.rename(aside)
            self._file.with_name("history.db-journal").unlink(missing_ok=True)
        except OSError as error:
            LOG.error("The damaged history cannot be set aside: %s", error)


def _run(row: tuple[str, ...]) -> Run:
    job, started, finished, outcome, code, reason, snapshot, files, size, sent, *more = row
    regular, changed, changed_bytes, source = more
    return Run(
        job=job,
        started_at=moment(started),
        finished_at=moment(finished),
        outcome=JobState(outcome),
        exit=None if code is None else int(code),
        reason=reason,
        snapshot=snapshot,
        files=int(files),
        bytes=int(size),
        bytes_transferred=int(sent),
        regular=int(regular),
        changed=int(changed),
        changed_bytes=int(changed_bytes),
        source=source,
    )
