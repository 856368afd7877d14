"""Write a zip in one go, without ever going back.

PKWARE's APPNOTE 6.3 is the format, with Info-ZIP's fields UT and ux.  The list that ends a zip has a
record of each file, packed about 40 bytes: it waits in a temporary file, for which TMPDIR names the place.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import time
import zlib
from collections import Counter
from typing import BinaryIO

from flashback.beside import look
from flashback.compare import attributes, reading
from flashback.gauge import Gauge

PIECE = 1 << 18

# Sizes and offsets from here on do not fit into the fields of 1989.
_LARGE = 0xFFFF_FFFF
_MANY = 0xFFFF
# A file of this size is described with large fields from the start: packed it may grow a little.
_LIKELY_LARGE = 0xF000_0000
_STORED, _DEFLATED = 0, 8
# Names are UTF-8; sizes follow the content.
_UTF8, _TRAILER = 0x0800, 0x0008
_UNIX = 3 << 8


class Zip:
    """Writes what is in an open tree into a zip; to be used in a `with`, `finish` comes last."""

    def __init__(self, tree: int, target: BinaryIO, gauge: Gauge) -> None:
        self._tree = tree
        self._target = target
        self._gauge = gauge
        self._offset = self._count = 0
        self._list = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the `with`
        self._packer = zlib.compressobj(1)
        self._lost: Counter[str] = Counter()

    def __enter__(self) -> Zip:
        return self

    def __exit__(self, *_: object) -> None:
        self._list.close()

    def add(self, path: str) -> None:
        """Add what is at a path, without what is below it."""
        status = os.stat(path, dir_fd=self._tree, follow_symlinks=False)
        mode = status.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            self._lost["device, pipe or socket"] += 1
            return
        name = self._named(path) + (b"/" if stat.S_ISDIR(mode) else b"")
        if stat.S_ISREG(mode) and status.st_size:
            self._file(path, name, status)
        else:
            content = os.fsencode(os.readlink(path, dir_fd=self._tree)) if stat.S_ISLNK(mode) else b""
            self._small(name, status, content)
        self._note(path, status)
        self._gauge.more(files=1)

    def finish(self) -> None:
        """Write the list and the end."""
        start = self._offset
        self._write_list()
        size, end = self._offset - start, self._offset
        if self._count >= _MANY or end >= _LARGE:
            numbers = (_UNIX | 45, 45, 0, 0, self._count, self._count, size, start)
            self._put(struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, *numbers))
            self._put(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
        count = min(self._count, _MANY)
        ending = (0, 0, count, count, min(size, _LARGE), min(start, _LARGE), 0)
        self._put(struct.pack("<IHHHHIIH", 0x06054B50, *ending))
        self._target.flush()

    def _write_list(self) -> None:
        self._list.write(self._packer.flush())
        self._list.seek(0)
        unpacker = zlib.decompressobj()
        while piece := self._list.read(PIECE):
            # A piece may unpack to a thousand times its size.
            while piece:
                self._put(unpacker.decompress(piece, PIECE))
                piece = unpacker.unconsumed_tail
        self._put(unpacker.flush())

    def lost(self) -> list[str]:
        """Return what could not be kept, a sentence each."""
        always = ["zip keeps no hard links and no times finer than a second"]
        return always + [f"zip cannot keep: {what} ({count})" for what, count in sorted(self._lost.items())]

    def _file(self, path: str, name: bytes, status: os.stat_result) -> None:
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
        with reading(self._tree, path) as source:
            while piece := source.read(PIECE):
                crc, size = zlib.crc32(piece, crc), size + len(piece)
                self._put(packer.compress(piece))
                self._gauge.more(size=len(piece))
        self._put(packer.flush())
        if size != status.st_size:
            raise OSError(f"{path} changed while it was read")
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

    def _named(self, path: str) -> bytes:
        """Return a path as text, which all names in a zip are: other bytes become visible signs."""
        if _is_text(path):
            return os.fsencode(path)
        self._lost["name that is no text, now with \\x signs"] += 1
        made: list[str] = []
        parts = path.split("/")
        for number, part in enumerate(parts):
            if _is_text(part):
                made.append(os.fsencode(part).decode())
                continue
            name = os.fsencode(part).replace(b"\\", rb"\x5c").decode("utf-8", "backslashreplace")
            # Another file may bear just that name.
            while look(self._tree, "/".join([*parts[:number], name])):
                name += "_"
            made.append(name)
        return "/".join(made).encode()

    def _note(self, path: str, status: os.stat_result) -> None:
        """Remember what this entry loses."""
        if attributes(self._tree, path):
            self._lost["extended attributes or access control list"] += 1
        if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size // 2:
            self._lost["holes of a sparse file, now filled"] += 1


def _is_text(name: str) -> bool:
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


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
