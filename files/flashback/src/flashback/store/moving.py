"""Take names out of a tree, or move them from one tree into another.

What is in the trees comes from clients, perhaps hostile ones.  The sacred rule: no link is followed,
so nothing outside the two trees is ever touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from flashback import below, transfer
from flashback.listing import UnclearError


class _Folders:
    """Knows which paths below an open tree are real folders, and not links to somewhere else."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._real = {b"", b"."}

    def hold(self, path: bytes) -> bool:
        """Return whether all that is above a path is a folder."""
        return self._is_real(path.rpartition(b"/")[0])

    def _is_real(self, folder: bytes) -> bool:
        if folder in self._real:
            return True
        if not self.hold(folder):
            return False
        status = below.status_of(self._top, folder)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        self._real.add(folder)
        return True


@contextlib.contextmanager
def times_kept(tree: Path, names: Collection[bytes]) -> Iterator[None]:
    """Give the folders of a tree that bear these names back the times that they have now."""
    with below.opened(tree) as top:
        folders, before = _Folders(top), dict[bytes, os.stat_result]()
        for name in names:
            status = below.status_of(top, name) if folders.hold(name) else None
            if status is not None and stat.S_ISDIR(status.st_mode):
                before[name] = status
        yield
        folders = _Folders(top)
        for name, status in before.items():
            now = below.status_of(top, name) if folders.hold(name) else None
            if now is not None and now.st_ino == status.st_ino:
                times = (status.st_atime_ns, status.st_mtime_ns)
                os.utime(name, ns=times, dir_fd=top, follow_symlinks=False)


def clear(tree: Path, gone: Iterable[bytes]) -> None:
    """Take names out of a tree, the deepest first; a folder has to be empty."""
    with below.opened(tree) as top:
        folders = _Folders(top)
        for name in sorted(gone, reverse=True):
            status = below.status_of(top, name) if folders.hold(name) else None
            if status is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                _remove_folder(top, name)
            else:
                os.unlink(name, dir_fd=top)


def _remove_folder(top: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise UnclearError(f"{os.fsdecode(name)!r} holds more than was listed") from None


def join(fetched: Path, tree: Path, names: Iterable[bytes]) -> None:
    """Move entries into a tree where only folders bear these names; those become like the fetched folders.

    A name that was not fetched is passed over, and so is what comes along with its folder.
    """
    with below.opened(fetched) as source, below.opened(tree) as target:
        here, there = _Folders(source), _Folders(target)
        # Moving what is in a folder changes its times, so those are noted before.
        both: list[tuple[bytes, os.stat_result]] = []
        for name in sorted(names):
            status = below.status_of(source, name) if here.hold(name) else None
            if status is None:
                continue
            known = below.status_of(target, name) if there.hold(name) else None
            if known is not None and stat.S_ISDIR(known.st_mode) and stat.S_ISDIR(status.st_mode):
                both.append((name, status))
            elif there.hold(name):
                _move(source, target, name)
        for name, status in reversed(both):
            _make_alike(source, target, name, status)


def _move(source: int, target: int, name: bytes) -> None:
    try:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR):
            raise
        raise UnclearError(f"{os.fsdecode(name)!r} became something else meanwhile") from None


def _make_alike(source: int, target: int, name: bytes, wanted: os.stat_result) -> None:
    """Give a folder the attributes of another one, and owner, mode and times as that one had them."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    model = os.open(name, flags, dir_fd=source)
    try:
        copy = os.open(name, flags, dir_fd=target)
        try:
            there = os.fstat(copy)
            if (wanted.st_uid, wanted.st_gid) != (there.st_uid, there.st_gid):
                os.fchown(copy, wanted.st_uid, wanted.st_gid)
            _copy_attributes(model, copy)
            # Last, for owner and access control list change the mode, and all of them the time.
            os.fchmod(copy, stat.S_IMODE(wanted.st_mode))
            os.utime(copy, ns=(wanted.st_atime_ns, wanted.st_mtime_ns))
        finally:
            os.close(copy)
    finally:
        os.close(model)


def _copy_attributes(model: int, copy: int) -> None:
    there, here = os.listxattr(model), os.listxattr(copy)
    for name in filter(transfer.is_stored_attribute, there):
        value = os.getxattr(model, name)
        if name not in here or os.getxattr(copy, name) != value:
            os.setxattr(copy, name, value)
    for name in filter(transfer.is_stored_attribute, here):
        if name not in there:
            os.removexattr(copy, name)
