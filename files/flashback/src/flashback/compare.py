"""Say how the entries of one path differ between two open trees.

The same inode is equal without a look at it; otherwise sizes and times tell, and the bytes when that is
asked for.  Nothing is written, and no link is followed.
"""

from __future__ import annotations

import os
import stat
from itertools import zip_longest
from typing import BinaryIO

# xfs shows root the access control lists a second time.
TWICE = "trusted.SGI_ACL_"
PIECE = 1 << 18
_ORDER = ("content", "mode", "owner", "time", "xattr")

Both = tuple[os.stat_result, os.stat_result]


def differing(old: int, new: int, path: str, both: Both, *, content: bool) -> str:
    """Return what differs between two entries of the same path, as words; nothing when they are equal."""
    one, other = both
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return ""
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return "type"
    later = one.st_mtime_ns != other.st_mtime_ns
    try:
        found = metadata(old, new, path, both)
        if stat.S_ISREG(one.st_mode) and not content:
            same = one.st_size == other.st_size and not later
        else:
            same = same_content(old, new, path, both)
    except OSError:
        return "unreadable"
    if not same:
        found.add("content")
    elif later and not stat.S_ISDIR(one.st_mode):
        found.add("time")
    return listed(found)


def listed(words: set[str]) -> str:
    """Return words on what differs in their fixed order."""
    return ", ".join(sorted(words, key=_ORDER.index))


def metadata(old: int, new: int, path: str, both: Both) -> set[str]:
    """Return which of mode, owner and xattr differ."""
    one, other = both
    found = {"xattr"} if attributes(old, path) != attributes(new, path) else set()
    if stat.S_IMODE(one.st_mode) != stat.S_IMODE(other.st_mode):
        found.add("mode")
    if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
        found.add("owner")
    return found


def same_content(old: int, new: int, path: str, both: Both) -> bool:
    """Return whether bytes of a file, target of a link or number of a device are the same."""
    one, other = both
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(path, dir_fd=old) == os.readlink(path, dir_fd=new)
    if stat.S_ISREG(one.st_mode):
        return one.st_size == other.st_size and same_bytes(old, path, new, path)
    return one.st_rdev == other.st_rdev


def same_bytes(old: int, old_path: str, new: int, new_path: str) -> bool:
    """Return whether two files hold the same bytes."""
    with reading(old, old_path) as one, reading(new, new_path) as other:
        for file in (one, other):
            # What has just been written is to come from the disk, not from memory.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pieces = zip_longest(iter(lambda: one.read(PIECE), b""), iter(lambda: other.read(PIECE), b""))
        return all(before == after for before, after in pieces)


def reading(tree: int, path: str) -> BinaryIO:
    """Open a file of an open tree for reading."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tree)
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123 - a descriptor has no path


def attributes(tree: int, path: str) -> dict[str, bytes]:
    """Return the extended attributes with the access control lists."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tree)
    try:
        # By this name the kernel takes the opened entry itself, a link too; the calls know no open trees.
        place = f"/proc/self/fd/{descriptor}"
        wanted = (name for name in os.listxattr(place) if not name.startswith(TWICE))
        return {name: os.getxattr(place, name) for name in wanted}
    finally:
        os.close(descriptor)
