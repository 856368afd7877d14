"""Remember what was read again, which stored files are damaged and which restores were proven.

One SQLite file on the backup disk, `.flashback/verify.db`, with a rollback journal written through:
the one mode that survives a pulled plug on every file system.  Paths are bytes.

This module only records and answers; it reads no stored file and changes none.  The sacred rule:
damage leaves the list only when it is healed, forgotten by a person, or its snapshots are gone.  A
damaged ledger is set aside and a new one begun: the next round over the disk fills it again.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from flashback.disk import META
from flashback.errors import NotNowError
from flashback.model import iso, snapshot_name

VERSION = 2
T = TypeVar("T")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS damage (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    volume TEXT NOT NULL,
    path BLOB NOT NULL,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    digest TEXT NOT NULL,
    found_at TEXT NOT NULL,
    evidence BLOB,
    reason TEXT NOT NULL,
    healed_at TEXT
);
CREATE TABLE IF NOT EXISTS places (
    damage INTEGER NOT NULL REFERENCES damage (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    path BLOB NOT NULL,
    PRIMARY KEY (damage, label, snapshot, path)
);
CREATE TABLE IF NOT EXISTS drills (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    at TEXT NOT NULL,
    good INTEGER NOT NULL,
    said TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS drills_by_host ON drills (host, id);
CREATE TABLE IF NOT EXISTS doors (host TEXT PRIMARY KEY, at TEXT NOT NULL, problems TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS proven (
    job TEXT NOT NULL, snapshot TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (job, snapshot)
);
"""
_DAMAGE = "id, host, volume, path, kind, size, mtime_ns, inode, digest, found_at, evidence, reason, healed_at"


@dataclass(frozen=True, order=True)
class Place:
    """One name that a file has on the disk."""

    label: str
    snapshot: str
    path: bytes


@dataclass(frozen=True)
class Damage:
    """A stored file that is not what its manifest says.

    `kind` is rot (content), altered (size or time), missing, or unreadable (the disk gives an error).
    Size, time, inode and digest are what the manifest has; `evidence` is where the bad file is kept.
    """

    host: str
    volume: str
    path: bytes
    kind: str
    size: int
    mtime_ns: int
    inode: int
    digest: bytes
    found_at: datetime
    places: tuple[Place, ...] = ()
    evidence: bytes | None = None
    reason: str = ""
    healed_at: datetime | None = None
    id: int = 0

    @property
    def names(self) -> list[str]:
        """Return HOST/VOLUME/LABEL/SNAPSHOT/PATH of each place; what is no text is shown escaped."""
        return [
            f"{self.host}/{self.volume}/{each.label}/{each.snapshot}/{shown(each.path)}"
            for each in self.places
        ]


def shown(path: bytes) -> str:
    """Return a path on one line: bytes that are no printable text are written as `\\xNN`."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


class Ledger:
    """The ledger of one disk, opened with `opened`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # --- the slice's progress ------------------------------------------------------------------------------

    def fact(self, name: str, otherwise: bytes = b"") -> bytes:
        """Return what was written down under a name."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else otherwise

    def write(self, **facts: bytes) -> None:
        """Write facts down, all of them or none."""
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def number(self, name: str) -> int:
        """Return a fact that is a number; 0 when it was never written."""
        return int(self.fact(name, b"0"))

    def moment(self, name: str) -> datetime | None:
        """Return a fact that is a moment."""
        value = self.fact(name).decode()
        return _moment(value) if value else None

    # --- damage --------------------------------------------------------------------------------------------

    def damage(self, *, healed: bool = False) -> list[Damage]:
        """Return what is damaged (or what was and is healed), in the order in which it was found."""
        wanted = "NOT NULL" if healed else "NULL"
        query = f"SELECT {_DAMAGE} FROM damage WHERE healed_at IS {wanted} ORDER BY id"  # noqa: S608 - constants
        return [self._with_places(row) for row in self._db.execute(query).fetchall()]

    def found(self, damage: Damage) -> int:
        """Put a damage on the list, once for all names of a file; return its number."""
        key = (damage.host, damage.volume, damage.inode, damage.digest.decode())
        with self._db:
            row = self._db.execute(
                "SELECT id FROM damage WHERE host = ? AND volume = ? AND inode = ? AND digest = ?"
                " AND healed_at IS NULL",
                key,
            ).fetchone()
            if row is None:
                values = (
                    damage.host,
                    damage.volume,
                    damage.path,
                    damage.kind,
                    damage.size,
                    damage.mtime_ns,
                    damage.inode,
                    damage.digest.decode(),
                    iso(damage.found_at),
                    damage.evidence,
                    damage.reason,
                )
                row = self._db.execute(
                    "INSERT INTO damage (host, volume, path, kind, size, mtime_ns, inode, digest, found_at,"
                    " evidence, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                    values,
                ).fetchone()
            self._put_places(int(row[0]), damage.places)
        return int(row[0])

    def change(self, damage: Damage) -> None:
        """Write down what became of a damage: places, evidence, reason, healed or not."""
        with self._db:
            self._db.execute(
                "UPDATE damage SET kind = ?, evidence = ?, reason = ?, healed_at = ? WHERE id = ?",
                (damage.kind, damage.evidence, damage.reason, iso(damage.healed_at), damage.id),
            )
            self._put_places(damage.id, damage.places)

    def lose_places(self, damage: Damage, gone: Sequence[Place]) -> Damage:
        """Take places whose snapshot is gone off a damage; with the last of them the damage goes too."""
        with self._db:
            for each in gone:
                self._db.execute(
                    "DELETE FROM places WHERE damage = ? AND label = ? AND snapshot = ? AND path = ?",
                    (damage.id, each.label, each.snapshot, each.path),
                )
            left = tuple(each for each in damage.places if each not in gone)
            if not left:
                self._db.execute("DELETE FROM damage WHERE id = ?", (damage.id,))
        return replace(damage, places=left)

    def forget(self, damage: Damage) -> None:
        """Take a damage off the list because a person said so."""
        with self._db:
            self._db.execute("DELETE FROM damage WHERE id = ?", (damage.id,))

    def _put_places(self, number: int, places: Sequence[Place]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?)",
            [(number, each.label, each.snapshot, each.path) for each in places],
        )

    def _with_places(self, row: tuple[object, ...]) -> Damage:
        number, host, volume, path, kind, size, mtime, inode, digest, found, evidence, reason, healed = row
        rows = self._db.execute("SELECT label, snapshot, path FROM places WHERE damage = ?", (number,))
        return Damage(
            id=int(str(number)),
            host=str(host),
            volume=str(volume),
            path=_bytes(path),
            kind=str(kind),
            size=int(str(size)),
            mtime_ns=int(str(mtime)),
            inode=int(str(inode)),
            digest=str(digest).encode(),
            found_at=_moment(str(found)),
            places=tuple(sorted(Place(label, snapshot, bytes(name)) for label, snapshot, name in rows)),
            evidence=None if evidence is None else _bytes(evidence),
            reason=str(reason),
            healed_at=None if healed is None else _moment(str(healed)),
        )

    # --- drills --------------------------------------------------------------------------------------------

    def add_drill(
        self, host: str, at: datetime, good: bool, said: dict[str, object], proven: list[tuple[str, datetime]]
    ) -> None:
        """Write a drill down, and the (job, snapshot) pairs that it proved."""
        with self._db:
            self._db.execute(
                "INSERT INTO drills (host, at, good, said) VALUES (?, ?, ?, ?)",
                (host, iso(at), good, json.dumps(said)),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO proven VALUES (?, ?, ?)",
                [(job, snapshot_name(taken), iso(at)) for job, taken in proven],
            )

    def last_drills(self) -> list[tuple[str, datetime, bool, dict[str, object]]]:
        """Return (host, moment, good, what was said) of the last drill of every host."""
        query = (
            "SELECT host, at, good, said FROM drills WHERE id IN (SELECT max(id) FROM drills GROUP BY host)"
        )
        return [
            (host, _moment(at), bool(good), json.loads(said))
            for host, at, good, said in self._db.execute(query)
        ]

    def proven(self, job: str) -> list[str]:
        """Return the names of the snapshots of a job from which a restore was proven, newest first."""
        query = "SELECT snapshot FROM proven WHERE job = ? ORDER BY snapshot DESC"
        return [str(row[0]) for row in self._db.execute(query, (job,))]

    def disprove(self, job: str, taken: datetime) -> None:
        """Take a snapshot's proof back: a later drill of it failed."""
        with self._db:
            self._db.execute("DELETE FROM proven WHERE job = ? AND snapshot = ?", (job, snapshot_name(taken)))

    # --- what the key can do at the clients ----------------------------------------------------------------

    def note_doors(self, host: str, at: datetime, problems: Sequence[str]) -> None:
        """Write down what the key can do at a client besides reading."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO doors VALUES (?, ?, ?)", (host, iso(at), json.dumps(list(problems)))
            )

    def doors(self) -> list[tuple[str, datetime, list[str]]]:
        """Return (host, moment, problems) as they were found last."""
        query = "SELECT host, at, problems FROM doors ORDER BY host"
        return [(host, _moment(at), json.loads(said)) for host, at, said in self._db.execute(query)]


@contextmanager
def opened(data_dir: Path) -> Iterator[Ledger]:
    """Open the ledger of a disk; a damaged one is set aside and a new one begun."""
    file = data_dir / META / "verify.db"
    if not file.parent.is_dir():
        raise NotNowError(f"The backup disk is not mounted on {data_dir}")
    try:
        db = _connect(file)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        file.rename(file.with_name(f"{file.name}.damaged-{int(time.time())}"))
        file.with_name(f"{file.name}-journal").unlink(missing_ok=True)
        db = _connect(file)
    try:
        yield Ledger(db)
    finally:
        db.close()


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=30)
    try:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {VERSION}")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("quick_check")
    except BaseException:
        db.close()
        raise
    return db


def asked(data_dir: Path, question: Callable[[Ledger], T]) -> T | None:
    """Return the answer of the ledger, or None when there is none or it cannot be read now."""
    if not (data_dir / META / "verify.db").is_file():
        return None
    try:
        with opened(data_dir) as ledger:
            return question(ledger)
    except (sqlite3.Error, OSError, NotNowError):
        return None


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else bytes(str(value), "utf-8", "surrogateescape")


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
