"""Reach the entries of a tree from its open top: paths below it may be as long as rsync makes them.

No link is followed at the end of a path.  Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flashback.model import Pulse


def open_tree(path: Path) -> int:
    """Return a descriptor of a folder."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a folder for as long as it is needed."""
    top = open_tree(path)
    try:
        yield top
    finally:
        os.close(top)


def entries(top: Path, pulse: Pulse) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield every entry of a tree, a folder before its content."""
    with opened(top) as tree:
        for count, found in enumerate(walk(tree)):
            if count % 500 == 0:
                pulse()
            yield found


def walk(top: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield every entry below an open folder, in the order of the manifest: a folder before its content."""
    pending = [(b"", names(top, b"."))]
    while pending:
        prefix, left = pending[-1]
        if not left:
            pending.pop()
            continue
        path = prefix + left.pop()
        status = os.stat(path, dir_fd=top, follow_symlinks=False)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            pending.append((path + b"/", names(top, path)))


def status_of(top: int, path: bytes) -> os.stat_result | None:
    """Return what is known of an entry, or None when there is none."""
    try:
        return os.stat(path, dir_fd=top, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def has_attributes(top: int, path: bytes) -> bool:
    """Return whether an entry has extended attributes or access control lists; in doubt it has."""
    try:
        return bool(os.listxattr(b"/proc/self/fd/%d/%b" % (top, path), follow_symlinks=False))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return True
        raise


def names(top: int, path: bytes) -> list[bytes]:
    """Return the names in a folder, the last first."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=top)
    try:
        return sorted((os.fsencode(name) for name in os.listdir(descriptor)), reverse=True)  # noqa: PTH208 - a descriptor has no pathlib
    finally:
        os.close(descriptor)
