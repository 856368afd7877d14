"""Say what differs between two trees.

Memory stays small: what differs is handed on as it is found, and only what exists on one side
waits, in a temporary database outside of memory, for its counterpart.  The sacred rule: nothing is
written to either tree, and no link is followed.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flashback.beside import look, opened, walk
from flashback.compare import differing, same_bytes

_TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE lone (side INT, path BLOB, name BLOB, size INT, time INT, device INT, inode INT, regular INT);
CREATE TABLE paired (number INTEGER PRIMARY KEY);
"""
_FREE = "rowid NOT IN (SELECT number FROM paired)"
_GONE = f"SELECT rowid, path FROM lone WHERE side = 1 AND regular AND {_FREE}"  # noqa: S608 - a constant
_LEFT = f"SELECT path, size FROM lone WHERE side = ? AND {_FREE} ORDER BY path"  # noqa: S608 - a constant
_NEW = (
    "SELECT rowid, path, name, size, time, device, inode FROM lone WHERE side = 2 AND regular ORDER BY path"
)
_SAME_INODE = f"{_GONE} AND inode = ? AND device = ? LIMIT 1"
# An empty file is no evidence of anything.
_ALIKE = (
    f"{_GONE} AND time = ? AND size = ? AND size > 0 AND (name = ? OR ? % 1000000000 != 0)"
    " ORDER BY name = ? DESC LIMIT 1"
)


@dataclass(frozen=True)
class Difference:
    """One path that differs.

    `what` is added, removed, moved, or a list of content, mode, owner, time, type, xattr, unreadable; `size`
    is that of the newer side, of the older one for what was removed; `origin` is where a moved file was.
    """

    what: str
    path: str
    size: int
    origin: str = ""

    @property
    def kind(self) -> str:
        """Return added, removed, moved or changed."""
        return self.what if self.what in ("added", "removed", "moved") else "changed"


def differences(old: Path, new: Path, *, content: bool = False) -> Iterator[Difference]:
    """Yield what differs: changed paths as they are found, then what moved, was added and was removed.

    Moved is a file that is gone at one path and there at another with the same inode, or the same size and
    time and, with `content`, the same bytes.
    """
    # An empty name is a database of this connection alone, which spills to a temporary file.
    with opened([old, new]) as (before, after), closing(sqlite3.connect("")) as db:
        db.executescript(_TABLES)
        for path, holders in walk([before, after]):
            one = look(before, path) if before in holders else None
            other = look(after, path) if after in holders else None
            if one is not None and other is not None:
                what = differing(before, after, path, (one, other), content=content)
                if what:
                    yield Difference(what, path, _size(other))
            elif one is not None:
                _lone(db, 1, path, one)
            elif other is not None:
                _lone(db, 2, path, other)
        yield from _moved(db, before, after, content)
        for side, what in ((2, "added"), (1, "removed")):
            for path, size in db.execute(_LEFT, (side,)):
                yield Difference(what, os.fsdecode(path), size)


def _lone(db: sqlite3.Connection, side: int, path: str, status: os.stat_result) -> None:
    # SQLite's numbers are signed; an inode's number may use the 64th bit.
    inode = status.st_ino - (1 << 63)
    name, regular = os.fsencode(path.rpartition("/")[2]), stat.S_ISREG(status.st_mode)
    values = (side, os.fsencode(path), name, _size(status), status.st_mtime_ns, status.st_dev, inode, regular)
    db.execute("INSERT INTO lone VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def _moved(db: sqlite3.Connection, old: int, new: int, content: bool) -> Iterator[Difference]:
    """Yield the pairs of gone and new files that are one file, each file in one pair at most."""
    for name, columns in (("path", "side, path"), ("time", "side, time, size"), ("inode", "side, inode")):
        db.execute(f"CREATE INDEX by_{name} ON lone ({columns})")
    for number, path, name, size, time, device, inode in db.execute(_NEW):
        found = db.execute(_SAME_INODE, (inode, device)).fetchone()
        sure = found is not None
        if not sure:
            # Many files of a package bear one whole second; then only the same name is evidence too.
            found = db.execute(_ALIKE, (time, size, name, time, name)).fetchone()
        if found is None:
            continue
        origin = os.fsdecode(found[1])
        if content and not sure and not same_bytes(old, origin, new, os.fsdecode(path)):
            continue
        db.executemany("INSERT INTO paired VALUES (?)", [(number,), (found[0],)])
        yield Difference("moved", os.fsdecode(path), size, origin)


def _size(status: os.stat_result) -> int:
    """Return the bytes of a file; a folder has none of its own."""
    return status.st_size if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode) else 0
