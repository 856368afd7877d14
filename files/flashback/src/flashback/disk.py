"""Is the right disk there, how full is it, and may we be the one to write to it?

This module looks and locks; it creates nothing but the lock file beside the token.  The
sacred rule: nothing is ever written below a mount point on which the disk is not mounted.
The token `.flashback/id` lies on the disk itself, so an empty mount point cannot have it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashback.errors import BusyError, FlashbackError, NotNowError
from flashback.model import Config

META = ".flashback"


@dataclass(frozen=True)
class Disk:
    """What is known about the backup disk; sizes in bytes."""

    mount: Path
    present: bool
    reason: str = ""
    locked: bool = False
    """Whether it is plugged in, but its encrypted container is not unlocked."""
    id: str | None = None
    filesystem: str | None = None
    total: int = 0
    used: int = 0
    free: int = 0
    inodes: int = 0
    """All inodes; 0 where the file system makes them as needed (btrfs)."""
    inodes_free: int = 0


def look(config: Config) -> Disk:
    """Return whether the right disk is there and how full it is."""
    mount = config.data_dir
    try:
        token = (mount / META / "id").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return _away(config)
    except (OSError, UnicodeError) as error:
        return Disk(mount, False, f"{mount}/{META}/id cannot be read: {error}")
    if not token:
        return Disk(mount, False, f"{mount}/{META}/id is empty")
    if config.disk_id is not None and token != config.disk_id:
        return Disk(
            mount, False, f"another disk is mounted: its id is {token}, wanted is {config.disk_id}", id=token
        )
    try:
        sizes = os.statvfs(mount)
    except OSError as error:
        return Disk(mount, False, f"{mount} cannot be read: {error.strerror}", id=token)
    unit = sizes.f_frsize
    return Disk(
        mount=mount,
        present=True,
        id=token,
        filesystem=filesystem(mount),
        total=sizes.f_blocks * unit,
        used=(sizes.f_blocks - sizes.f_bfree) * unit,
        free=sizes.f_bavail * unit,
        inodes=sizes.f_files,
        inodes_free=sizes.f_favail,
    )


def _away(config: Config) -> Disk:
    """Return what a mount point without the token tells."""
    mount, container = config.data_dir, config.container
    if container is not None and container.exists() and not mount.is_mount() and not _in_use(container):
        unlock = "the backup disk is locked: `unlock-backup-disk` on the plug asks for its passphrase"
        return Disk(mount, False, unlock, locked=True)
    return Disk(mount, False, f"{mount}/{META}/id is missing: the backup disk is not mounted or not set up")


def _in_use(device: Path) -> bool:
    """Return whether the kernel knows something that is made of a device, as of an unlocked container."""
    holders = Path("/sys/class/block") / device.resolve().name / "holders"
    return holders.is_dir() and any(holders.iterdir())


def require(config: Config) -> Disk:
    """Return the disk, or raise NotNowError when it is not there."""
    disk = look(config)
    if not disk.present:
        mount = "" if disk.locked else "Mount the backup disk; "
        raise NotNowError(disk.reason, f"{mount}the engine looks again at every pass")
    return disk


def require_same(config: Config, lock: int) -> Disk:
    """Return the disk, or raise NotNowError when it is not there any more or another one has taken its place.

    `lock` is the descriptor that `locked` yields: a file of the disk with which the work began.
    """
    disk = require(config)
    begun = os.fstat(lock)
    try:
        now = (config.data_dir / META / "lock").stat()
    except FileNotFoundError:
        now = None
    if now is None or (now.st_dev, now.st_ino) != (begun.st_dev, begun.st_ino):
        raise NotNowError(
            f"Another disk is mounted on {config.data_dir} than when the work began",
            "What has arrived stays on the first one and is continued there",
        )
    return disk


def mark(mount: Path) -> str:
    """Write the token that makes this the backup disk and return it; a disk that has one keeps it.

    Refuses a folder on which nothing is mounted: a token there would send backups onto the stick.
    """
    if not mount.is_mount():
        raise FlashbackError(f"Nothing is mounted on {mount}", "Mount the backup disk there, then mark it")
    token = mount / META / "id"
    if not token.exists():
        import uuid  # noqa: PLC0415 - the daemon can do without

        token.parent.mkdir(mode=0o755, exist_ok=True)
        guide = Path(__file__).with_name("on_disk.txt").read_text(encoding="utf-8")
        (token.parent / "README.txt").write_text(guide, encoding="utf-8")
        written = token.with_name("id.new")
        written.write_text(f"{uuid.uuid4()}\n", encoding="utf-8")
        written.rename(token)
        os.sync()
    return token.read_text(encoding="utf-8").strip()


def filesystem(path: Path) -> str | None:
    """Return the type of the file system that holds a path, or None when the kernel does not say.

    Found by the mount point, not by the device: btrfs shows files another number than the mount has.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place, best, found = path.resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        # A later mount on the same place hides the earlier one.
        if place.is_relative_to(mount) and len(mount.parts) >= best:
            best, found = len(mount.parts), after.split()[0]
    return found


@contextmanager
def locked(config: Config) -> Iterator[int]:
    """Hold the disk's lock; yields its descriptor, which rsync inherits.

    The lock belongs to the open file, not to this process: should the engine be killed, an
    rsync that outlives it keeps the lock, and no second engine writes beside it.
    """
    require(config)
    path = config.data_dir / META / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise FlashbackError(
            f"The backup disk cannot be written to: {path}: {error.strerror}",
            "A disk with errors becomes read-only: look at the kernel's log, check it, mount it again",
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BusyError("Another run is working on this disk", "Wait for it, or use --wait") from None
            raise
        yield descriptor
    finally:
        os.close(descriptor)
