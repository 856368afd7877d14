"""Pack a snapshot, or paths of it, into one tar or zip file.

tar is written by GNU tar in the pax format and keeps all there is: owners, modes, times to
the nanosecond, hard links, devices, holes, attributes and access control lists.  zip keeps
names, contents, modes and times to two seconds; links are stored as links, devices not at all.
"""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from flashback.errors import FlashbackError

TAR = (
    "tar", "--create", "--format=pax", "--sparse", "--acls", "--xattrs", "--xattrs-include=*",
    "--xattrs-exclude=trusted.SGI_ACL_*", "--numeric-owner", "--pax-option=delete=atime,delete=ctime",
)  # fmt: skip
# The earliest and the latest moment that a zip file knows.
EPOCH = (1980, 1, 1, 0, 0, 0)
LATEST = (2107, 12, 31, 23, 59, 58)


def tar(top: Path, paths: Sequence[str], target: BinaryIO) -> None:
    """Write a tar of these paths below `top`."""
    # A name that begins with a dash is no option.
    names = [path if path == "." else f"./{path}" for path in paths]
    done = subprocess.run([*TAR, "--", *names], cwd=top, stdout=target, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        raise FlashbackError(f"tar failed: {said}", "What was written is not complete")


def zip_(top: Path, paths: Sequence[str], target: BinaryIO) -> list[str]:
    """Write a zip of these paths below `top`; return what it could not keep."""
    lost: list[str] = []
    with zipfile.ZipFile(
        target, "w", zipfile.ZIP_DEFLATED, allowZip64=True, strict_timestamps=False
    ) as archive:
        for path in paths:
            _add(archive, top, top / path, lost)
    return lost


def _add(archive: zipfile.ZipFile, top: Path, path: Path, lost: list[str]) -> None:
    status = path.lstat()
    # Names in a zip are text: bytes that are none become visible signs.
    name = os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")
    taken = datetime.fromtimestamp(status.st_mtime)
    info = zipfile.ZipInfo(name or ".", min(LATEST, max(EPOCH, (*taken.timetuple()[:6],))))
    info.external_attr = (status.st_mode & 0xFFFF) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    if stat.S_ISDIR(status.st_mode):
        if path != top:
            info.filename += "/"
            archive.writestr(info, b"")
        for below in sorted(path.iterdir()):
            _add(archive, top, below, lost)
    elif stat.S_ISLNK(status.st_mode):
        archive.writestr(info, os.fsencode(path.readlink()))
    elif stat.S_ISREG(status.st_mode):
        info.file_size = status.st_size
        with path.open("rb") as source, archive.open(info, "w", force_zip64=status.st_size > 2**31) as packed:
            while piece := source.read(1 << 20):
                packed.write(piece)
    else:
        lost.append(name)
