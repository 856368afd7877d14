"""Pack a snapshot, or paths of it, into one tar or zip file.

tar is written by GNU tar in the pax format and keeps all there is but sockets: owners, modes,
times to the nanosecond, hard links, devices, holes, attributes and access control lists.  zip
keeps names, contents, modes, owners by number, links, and times to the second.

Both are written in one go, to files and pipes alike, and memory does not grow with the number
of files.  The sacred rule: a file that bears the wanted name is complete.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flashback import process
from flashback.errors import FlashbackError, UsageError
from flashback.find import walk
from flashback.model import Progress

TAR = (
    "tar", "--create", "--format=pax", "--sparse", "--acls", "--xattrs", "--xattrs-include=*",
    "--xattrs-exclude=trusted.SGI_ACL_*", "--numeric-owner", "--pax-option=delete=atime,delete=ctime",
)  # fmt: skip
LONG = 7 * 86400.0
PIECE = 1 << 18

Show = Callable[[Progress], None] | None


@contextmanager
def fresh(place: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Yield a new file beside `place` that takes its name when all went well, and is removed otherwise."""
    if os.path.lexists(place) and not overwrite:
        raise UsageError(f"{place} exists already", "Name another file, or use --overwrite")
    if os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
        raise UsageError(f"{place} is no regular file", "Name another one")
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent} is not a directory", "Make it, or name another one")
    # Only its owner may read it: it holds what only root could read.
    descriptor, name = tempfile.mkstemp(prefix=".flashback-", suffix=".incomplete", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def tar(top: Path, paths: Sequence[str], target: BinaryIO, on_progress: Show = None) -> list[str]:
    """Write a tar of these paths below `top`; return what it could not keep."""
    # A name that begins with a dash is no option.
    names = [path if path == "." else f"./{path}" for path in paths]
    outlet, inlet = os.pipe()
    pump = _Pump(outlet, target, on_progress)
    try:
        # tar opens the pipe by its name and so needs no other standard output.
        argv = [*TAR, "--force-local", f"--file=/dev/fd/{inlet}", "--", *names]
        done = process.run(argv, cwd=top, timeout=LONG, pass_fds=(inlet,))
    finally:
        os.close(inlet)
        pump.join()
    if pump.error is not None:
        raise FlashbackError(f"The archive is not complete: {pump.error}")
    if done.code != 0:
        said = " ".join(done.stderr.split())[-300:]
        raise FlashbackError(f"The archive is not complete: tar ended with {done.code}: {said}")
    return ["tar cannot keep sockets"] if "socket ignored" in done.stderr else []


class _Pump(threading.Thread):
    """Carries bytes from a pipe to a file until the pipe is closed; an error of the file closes it too."""

    def __init__(self, outlet: int, target: BinaryIO, on_progress: Show) -> None:
        super().__init__(daemon=True)
        self._outlet = outlet
        self._target = target
        self._gauge = Gauge(on_progress)
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        """Carry."""
        try:
            while piece := os.read(self._outlet, PIECE):
                self._target.write(piece)
                self._gauge.more(len(piece))
            self._target.flush()
        except OSError as error:
            self.error = error
        finally:
            os.close(self._outlet)


class Gauge:
    """Counts bytes and reports them twice a second."""

    def __init__(self, on_progress: Show) -> None:
        self._on_progress = on_progress
        self._began = self._said = time.monotonic()
        self._bytes = 0

    def more(self, size: int) -> None:
        """Take notice of so many more bytes."""
        self._bytes += size
        now = time.monotonic()
        if self._on_progress and now - self._said > 0.5:
            self._said = now
            self._on_progress(Progress(bytes=self._bytes, rate=int(self._bytes / (now - self._began))))


def zip_(top: Path, paths: Sequence[str], target: BinaryIO, on_progress: Show = None) -> list[str]:
    """Write a zip of these paths below `top`; return what it could not keep."""
    archive = _Zip(target, Gauge(on_progress))
    try:
        for path in paths:
            folder = "" if path == "." else f"{path}/"
            if folder:
                archive.add(str(top), path)
            if not folder or stat.S_ISDIR((top / path).lstat().st_mode):
                for below in walk([f"{top}/{path}"]):
                    archive.add(str(top), folder + below)
        archive.close()
    except OSError as error:
        raise FlashbackError(f"The archive is not complete: {error}") from None
    return archive.lost()


# Sizes and offsets from here on do not fit into the fields of 1989.
_LARGE = 0xFFFF_FFFF
_MANY = 0xFFFF
# A file of this size is described with large fields from the start: packed it may grow a little.
_LIKELY_LARGE = 0xF000_0000
_STORED, _DEFLATED = 0, 8
# Names are UTF-8; sizes follow the content.
_UTF8, _TRAILER = 0x0800, 0x0008
_UNIX = 3 << 8


class _Zip:
    """Writes a zip without ever going back (PKWARE's APPNOTE 6.3, with Info-ZIP's fields UT and ux).

    The list at the end has a record of each file: it is kept packed in a temporary file meanwhile.
    """

    def __init__(self, target: BinaryIO, gauge: Gauge) -> None:
        self._target = target
        self._gauge = gauge
        self._offset = self._count = self._list_size = 0
        self._list = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the archive
        self._packer = zlib.compressobj(1)
        self._lost: Counter[str] = Counter()

    def add(self, top: str, path: str) -> None:
        """Add what is at a path, without what is below it."""
        place = f"{top}/{path}"
        status = os.lstat(place)
        mode = status.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            self._lost["device, pipe or socket"] += 1
            return
        name = self._named(top, path) + (b"/" if stat.S_ISDIR(mode) else b"")
        if stat.S_ISREG(mode) and status.st_size:
            self._file(place, name, status)
        else:
            content = os.fsencode(os.readlink(place)) if stat.S_ISLNK(mode) else b""  # noqa: PTH115 - as it is
            self._small(name, status, content)
        self._note(place, status)

    def close(self) -> None:
        """Write the list and the end."""
        self._list.write(self._packer.flush())
        self._list.seek(0)
        start, unpacker = self._offset, zlib.decompressobj()
        while piece := self._list.read(PIECE):
            # A piece may unpack to a thousand times its size.
            while piece:
                self._put(unpacker.decompress(piece, PIECE))
                piece = unpacker.unconsumed_tail
        self._put(unpacker.flush())
        self._list.close()
        size, end = self._offset - start, self._offset
        if self._count >= _MANY or end >= _LARGE:
            numbers = (_UNIX | 45, 45, 0, 0, self._count, self._count, size, start)
            self._put(struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, *numbers))
            self._put(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
        count = min(self._count, _MANY)
        ending = (0, 0, count, count, min(size, _LARGE), min(start, _LARGE), 0)
        self._put(struct.pack("<IHHHHIIH", 0x06054B50, *ending))
        self._target.flush()

    def lost(self) -> list[str]:
        """Return what could not be kept, a sentence each."""
        always = ["zip keeps no hard links and no times finer than a second"]
        return always + [f"zip cannot keep: {what} ({count})" for what, count in sorted(self._lost.items())]

    def _file(self, place: str, name: bytes, status: os.stat_result) -> None:
        offset, large = self._offset, status.st_size >= _LIKELY_LARGE
        extra = _unix_fields(status)
        sizes = struct.pack("<HHQQ", 1, 16, 0, 0) if large else b""
        fields = (45 if large else 20, _UTF8 | _TRAILER, _DEFLATED, *_moment(status.st_mtime))
        shown = _LARGE if large else 0
        header = struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, *fields, 0, shown, shown, len(name), len(sizes + extra)
        )
        self._put(header + name + sizes + extra)
        crc, size, begin = 0, 0, self._offset
        # The plug's processor is slow: packed lightly it keeps up with its disk a little better.
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        with open(place, "rb", buffering=0) as source:  # noqa: PTH123 - a Path per file costs time
            while piece := source.read(PIECE):
                crc, size = zlib.crc32(piece, crc), size + len(piece)
                self._put(packer.compress(piece))
        self._put(packer.flush())
        if size != status.st_size:
            raise OSError(f"{place} changed while it was read")
        packed = self._offset - begin
        self._put(struct.pack("<IIQQ" if large else "<IIII", 0x08074B50, crc, packed, size))
        self._record(fields, (crc, packed, size), name, status, offset)

    def _small(self, name: bytes, status: os.stat_result, content: bytes) -> None:
        offset, extra, crc, size = self._offset, _unix_fields(status), zlib.crc32(content), len(content)
        fields = (20, _UTF8, _STORED, *_moment(status.st_mtime))
        header = struct.pack("<IHHHHHIIIHH", 0x04034B50, *fields, crc, size, size, len(name), len(extra))
        self._put(header + name + extra + content)
        self._record(fields, (crc, size, size), name, status, offset)

    def _record(
        self,
        fields: tuple[int, ...],
        sizes: tuple[int, int, int],
        name: bytes,
        status: os.stat_result,
        offset: int,
    ) -> None:
        """Remember a line of the list: checksum, packed size and size of an entry, and where it is."""
        crc, packed, size = sizes
        extra = _unix_fields(status)
        large = [number for number in (size, packed, offset) if number >= _LARGE]
        if large:
            extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) + extra
            fields = (45, *fields[1:])
        size, packed, offset = (min(number, _LARGE) for number in (size, packed, offset))
        kind = status.st_mode << 16 | (0x10 if stat.S_ISDIR(status.st_mode) else 0)
        lengths = (len(name), len(extra), 0, 0, 0, kind, offset)
        made = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, _UNIX | 45, *fields, crc, packed, size, *lengths)
        self._list.write(self._packer.compress(made + name + extra))
        self._count += 1

    def _put(self, data: bytes) -> None:
        self._target.write(data)
        self._offset += len(data)
        self._gauge.more(len(data))

    def _named(self, top: str, path: str) -> bytes:
        """Return a path as text, which all names in a zip are: other bytes become visible signs."""
        try:
            return path.encode()
        except UnicodeEncodeError:
            self._lost["name that is no text, now with \\x signs"] += 1
        made, parts = "", path.split("/")
        for number, part in enumerate(parts):
            shown = os.fsencode(part).decode("utf-8", "backslashreplace")
            # Another file may bear just that name.
            while shown != part and os.path.lexists("/".join([top, *parts[:number], shown])):
                shown += "_"
            made += f"/{shown}" if number else shown
        return made.encode()

    def _note(self, place: str, status: os.stat_result) -> None:
        """Remember what this entry loses."""
        if any(
            not name.startswith("trusted.SGI_ACL_") for name in os.listxattr(place, follow_symlinks=False)
        ):
            self._lost["extended attributes or access control list"] += 1
        if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size // 2:
            self._lost["holes of a sparse file, now filled"] += 1


def _unix_fields(status: os.stat_result) -> bytes:
    """Return the fields with the time in UTC and the owner by number."""
    fields = struct.pack("<HHBBIBI", 0x7875, 11, 1, 4, status.st_uid, 4, status.st_gid)
    seconds = status.st_mtime_ns // 1_000_000_000
    if -(1 << 31) <= seconds < 1 << 31:
        fields += struct.pack("<HHBi", 0x5455, 5, 1, seconds)
    return fields


def _moment(seconds: float) -> tuple[int, int]:
    """Return time and date as zip has them: local, every other second of the years 1980 to 2107."""
    try:
        taken = time.localtime(seconds)
    except (OverflowError, ValueError, OSError):
        taken = time.localtime(0 if seconds < 0 else 1 << 33)
    if taken.tm_year < 1980:
        return 0, 1 << 5 | 1
    if taken.tm_year > 2107:
        return 23 << 11 | 59 << 5 | 29, 127 << 9 | 12 << 5 | 31
    clock = taken.tm_hour << 11 | taken.tm_min << 5 | min(taken.tm_sec // 2, 29)
    return clock, (taken.tm_year - 1980) << 9 | taken.tm_mon << 5 | taken.tm_mday
