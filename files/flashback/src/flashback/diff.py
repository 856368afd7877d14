"""Say what differs between two trees.

The same inode is equal without a look at it; otherwise sizes and times tell, and the bytes
when that is asked for.  Memory stays small: what differs is handed on as it is found, and only
what exists on one side waits, in a temporary database outside of memory, for its counterpart.
The sacred rule: nothing is written to either tree, and no link is followed.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest

from flashback.find import look, walk

# xfs shows root the access control lists a second time.
TWICE = "trusted.SGI_ACL_"
PIECE = 1 << 18

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


def differences(old: str, new: str, *, content: bool = False) -> Iterator[Difference]:
    """Yield what differs: changed paths as they are found, then what moved, was added and was removed.

    Moved is a file that is gone at one path and there at another with the same inode, or the same size and
    time and, with `content`, the same bytes.
    """
    with closing(sqlite3.connect("")) as db:
        # An empty name is a database of this connection alone, which spills to a temporary file.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute(
            "CREATE TABLE lone (side INT, path BLOB, name BLOB, size INT, time INT, device INT, inode INT,"
            " regular INT)"
        )
        db.execute("CREATE TABLE paired (number INTEGER PRIMARY KEY)")
        for path in walk([old, new]):
            one, other = look(f"{old}/{path}"), look(f"{new}/{path}")
            if one is not None and other is not None:
                what = changed(f"{old}/{path}", f"{new}/{path}", one, other, content=content)
                if what:
                    yield Difference(what, path, _size(other))
                continue
            status = one or other
            if status is not None:
                _lone(db, 1 if other is None else 2, path, status)
        yield from _moved(db, old, new, content)
        for side, what in ((2, "added"), (1, "removed")):
            for path, size in db.execute(_LEFT, (side,)):
                yield Difference(what, os.fsdecode(path), size)


def faults(old: str, new: str, source: str) -> Iterator[Difference]:
    """Yield how `new` falls short of `old` at or below one path: bytes, attributes and times are compared.

    What only `new` has is no fault.
    """
    top, folder = (old, "") if source == "." else (f"{old}/{source}", f"{source}/")
    if folder:
        yield from _fault(old, new, source)
    if stat.S_ISDIR(os.lstat(top).st_mode):
        for path in walk([top]):
            yield from _fault(old, new, folder + path)


def _fault(old: str, new: str, path: str) -> Iterator[Difference]:
    one, other = look(f"{old}/{path}"), look(f"{new}/{path}")
    if one is None:
        return
    if other is None:
        yield Difference("removed", path, _size(one))
        return
    what = changed(f"{old}/{path}", f"{new}/{path}", one, other, content=True)
    # Times of folders are left out of a comparison of snapshots, where every change in a folder alters them.
    if stat.S_ISDIR(one.st_mode) and one.st_mtime_ns != other.st_mtime_ns:
        what = f"{what}, time" if what else "time"
    if what:
        yield Difference(what, path, _size(other))


def changed(old: str, new: str, one: os.stat_result, other: os.stat_result, *, content: bool) -> str:
    """Return what differs between two entries of the same path, as words; nothing when they are equal."""
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return ""
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return "type"
    found = []
    try:
        if _content(old, new, one, other, content):
            found.append("content")
        if _attributes(old) != _attributes(new):
            found.append("xattr")
    except OSError:
        found.append("unreadable")
    if stat.S_IMODE(one.st_mode) != stat.S_IMODE(other.st_mode):
        found.append("mode")
    if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
        found.append("owner")
    if not stat.S_ISDIR(one.st_mode) and "content" not in found and one.st_mtime_ns != other.st_mtime_ns:
        found.append("time")
    return ", ".join(sorted(found, key=["content", "unreadable", "mode", "owner", "time", "xattr"].index))


def _content(old: str, new: str, one: os.stat_result, other: os.stat_result, read: bool) -> bool:
    """Return whether the content differs; without `read` size and time of files tell."""
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(old) != os.readlink(new)  # noqa: PTH115 - the bytes as they are
    if stat.S_ISBLK(one.st_mode) or stat.S_ISCHR(one.st_mode):
        return one.st_rdev != other.st_rdev
    if not stat.S_ISREG(one.st_mode):
        return False
    if one.st_size != other.st_size:
        return True
    return not same_bytes(old, new) if read else one.st_mtime_ns != other.st_mtime_ns


def same_bytes(old: str, new: str) -> bool:
    """Return whether two files hold the same bytes."""
    with open(old, "rb") as one, open(new, "rb") as other:  # noqa: PTH123 - a Path per file costs time
        # What has just been written is to come from the disk, not from memory.
        os.posix_fadvise(other.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pieces = zip_longest(iter(lambda: one.read(PIECE), b""), iter(lambda: other.read(PIECE), b""))
        return all(before == after for before, after in pieces)


def _attributes(path: str) -> dict[str, bytes]:
    """Return the extended attributes with the access control lists."""
    names = os.listxattr(path, follow_symlinks=False)
    wanted = (name for name in names if not name.startswith(TWICE))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in wanted}


def _lone(db: sqlite3.Connection, side: int, path: str, status: os.stat_result) -> None:
    # SQLite's numbers are signed; an inode's number may use the 64th bit.
    inode = status.st_ino - (1 << 63)
    name, regular = os.fsencode(path.rpartition("/")[2]), stat.S_ISREG(status.st_mode)
    values = (side, os.fsencode(path), name, _size(status), status.st_mtime_ns, status.st_dev, inode, regular)
    db.execute("INSERT INTO lone VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def _moved(db: sqlite3.Connection, old: str, new: str, content: bool) -> Iterator[Difference]:
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
        if content and not sure and not same_bytes(f"{old}/{origin}", f"{new}/{os.fsdecode(path)}"):
            continue
        db.executemany("INSERT INTO paired VALUES (?)", [(number,), (found[0],)])
        yield Difference("moved", os.fsdecode(path), size, origin)


def _size(status: os.stat_result) -> int:
    """Return the bytes of a file; a folder has none of its own."""
    return status.st_size if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode) else 0
