"""Write down what every complete snapshot holds, with a checksum of each file's content.

    .flashback/manifests/HOST/VOLUME/LABEL/2026-11-23T030000Z.gz

A gzip stream of records that end in NUL, in the order of the walk: a heading, then one record
for each entry (`KIND SIZE MTIME_NS CTIME_NS INODE DIGEST PATH`, the path last and as raw bytes),
then `end COUNT`.  A manifest bears its name only when it is whole and on the disk.

Only new content is read: a file that has the same inode, size and time at the same path in the
manifest of a neighbouring snapshot takes its checksum from there.  Both sides are streams in the
same order, so memory holds one directory's names and a bounded table of hard links, never a tree.

The checksum is BLAKE2s with 128 bits: it computes with 32-bit words, adds, rotates and exclusive
ors alone, which is all that an ARMv5 without vector or hash instructions has.  Plain C compiled for
a 32-bit processor without vectors (gcc -m32 -march=i586) took for 262 MB: MD5 0.34 s, BLAKE2s 0.43,
BLAKE2b 0.65, SHA-256 0.99.  MD5 is hardly cheaper, and two files with one MD5 are made in seconds.

It never writes into a snapshot.  The sacred rule: no checksum is taken from a manifest that is not
whole to its last record, nor from one whose snapshot is gone: its inode numbers may live on in
other files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import os
import stat
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from flashback import disk, process
from flashback.below import open_tree, walk
from flashback.errors import FlashbackError, NotNowError
from flashback.model import Config, Job, Pulse, Snapshot, snapshot_name, snapshot_time
from flashback.store import Store, open_store

MANIFESTS = "manifests"
HEADING = b"flashback-manifest 1 blake2s-16 "
UNKNOWN = b"-"
"""Stands for the checksum of a file that could not be read."""
CHUNK = 1 << 18
# A file stays in the page cache after its checksum was made when it is less than the LARGE-th part of memory,
# the first GiB of which is not counted: a plug has none to spare.
LARGE = 64
SPARED = 1 << 30
# Inodes with several names of which the content was just read; more are read again instead of remembered.
LINKS = 20_000
# A terabyte at USB 2 takes half a day, in seconds.
LONG = 7 * 86400.0
# What the kernel says when the disk, not the program, is at fault.
SICK = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO})
# A temporary file this old, in seconds, belongs to nobody.
STALE = 7 * 86400.0


class Entry(NamedTuple):
    """One entry of a snapshot; `kind` is f, d, l or o (other), sizes and times are those of lstat."""

    kind: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: bytes
    path: bytes


@dataclass(frozen=True)
class Sealed:
    """What went into a manifest; `read` is what had to be read because it was new. Sizes in bytes."""

    entries: int
    bytes: int
    read: int
    read_bytes: int
    unreadable: int


class ManifestError(FlashbackError):
    """A manifest is not whole."""


def order(path: bytes) -> bytes:
    """Return what paths are sorted by: a directory comes right before its content."""
    return path.replace(b"/", b"\0")


def place(config: Config, job: Job, name: str) -> Path:
    """Return where the manifest of a snapshot of that name is kept."""
    return config.data_dir / disk.META / MANIFESTS / job.host / job.volume / job.label / f"{name}.gz"


def sealed(config: Config, job: Job) -> list[Snapshot]:
    """Return the complete snapshots that have a manifest, oldest first."""
    return [each for each in store_of(config).snapshots(job) if place(config, job, each.name).is_file()]


def missing(config: Config, jobs: Iterable[Job]) -> list[tuple[Job, Snapshot]]:
    """Return the complete snapshots without a manifest, by job, the oldest first."""
    store = store_of(config)
    return [
        (job, each)
        for job in jobs
        for each in store.snapshots(job)
        if not place(config, job, each.name).is_file()
    ]


def seal(config: Config, job: Job, snapshot: Snapshot, pulse: Pulse = process.no_pulse) -> Sealed:
    """Write the manifest of a complete snapshot, in a process of its own at idle priority."""
    disk.require(config)
    argv = ["nice", "-n", "19", "ionice", "-c", "3", sys.executable, "-m", "flashback.manifest"]
    argv += [str(config.data_dir), job.host, job.volume, job.label, snapshot.name]
    done = process.run(argv, pulse=pulse, timeout=LONG)
    if done.code == NotNowError.exit_code:
        raise NotNowError(" ".join(done.stderr.split()) or f"{snapshot.path} is gone")
    if done.code != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["it took too long" if done.timed_out else "no word"]
        raise FlashbackError(f"The manifest of {snapshot.path} cannot be written: {said[0]}")
    return Sealed(*(int(word) for word in done.stdout.split()))


def sweep(config: Config) -> list[str]:
    """Remove the manifests whose snapshot is gone and what interrupted ones left; return their names."""
    top = config.data_dir / disk.META / MANIFESTS
    removed = []
    for path in sorted(top.glob("*/*/*/*")):
        name, _, rest = path.name.partition(".gz")
        owner = config.data_dir / path.parent.relative_to(top) / name
        is_new = rest != "" and time.time() - path.stat().st_mtime > STALE
        if snapshot_time(name) is not None and (not owner.is_dir() or is_new):
            path.unlink(missing_ok=True)
            removed.append(str(path.relative_to(top)))
    return removed


def renamed(config: Config, job: Job, old: str, new: str) -> None:
    """Let a manifest follow its snapshot to another name, so that its checksums stay known."""
    with contextlib.suppress(FileNotFoundError):
        place(config, job, old).rename(place(config, job, new))


# --- reading -----------------------------------------------------------------------------------------------


def read(path: Path, after: bytes = b"") -> Iterator[Entry]:
    """Yield the entries of a manifest behind a path, in order; raise ManifestError when it is not whole.

    Whether it is whole is known at its end alone: whoever keeps what it says waits for that.
    """
    threshold, count, ended = order(after), 0, False
    try:
        for number, records in enumerate(_records(path)):
            if number == 0 and (not records or not records.pop(0).startswith(HEADING)):
                raise ManifestError(f"{path} is no manifest that this version knows")
            if ended and records:
                raise ManifestError(f"{path} goes on behind its end")
            if records and records[-1].startswith(b"end "):
                ended = True
                count += len(records) - 1
                if int(records.pop()[4:]) != count:
                    raise ManifestError(f"{path} has {count} entries, its end says otherwise")
            else:
                count += len(records)
            if threshold and records and order(_entry(records[-1]).path) <= threshold:
                continue
            for record in records:
                entry = _entry(record)
                if not threshold or order(entry.path) > threshold:
                    yield entry
    except (zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
        raise ManifestError(f"{path} is damaged: {error}") from None
    if not ended:
        raise ManifestError(f"{path} ends in the middle")


def _records(path: Path) -> Iterator[list[bytes]]:
    """Yield the records in handfuls; what follows the last NUL makes the manifest a broken one."""
    rest = b""
    with gzip.open(path, "rb") as stream:
        while data := stream.read(1 << 16):
            *records, rest = (rest + data).split(b"\0")
            if records:
                yield records
    if rest:
        raise ManifestError(f"{path} ends in the middle of a record")


def _entry(record: bytes) -> Entry:
    kind, size, mtime, ctime, inode, digest, path = record.split(b" ", 6)
    return Entry(kind, int(size), int(mtime), int(ctime), int(inode), digest, path)


# --- content -----------------------------------------------------------------------------------------------


def kind_of(mode: int) -> bytes:
    """Return the letter for a mode of lstat."""
    if stat.S_ISREG(mode):
        return b"f"
    if stat.S_ISDIR(mode):
        return b"d"
    return b"l" if stat.S_ISLNK(mode) else b"o"


@functools.cache
def _memory() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def digest(
    top: int, path: bytes, pulse: Pulse = process.no_pulse, pace: Callable[[int], None] | None = None
) -> bytes:
    """Return the checksum of a regular file below an open directory, read from the disk, not the cache.

    `pace` hears the size of every piece that was read and may take its time.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FlashbackError(f"{os.fsdecode(path)} is not a regular file any more")
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        hashing = hashlib.blake2s(digest_size=16)
        while data := os.read(descriptor, CHUNK):
            hashing.update(data)
            pulse()
            if pace is not None:
                pace(len(data))
        # What was read once for its checksum would only push out what a backup needs, where memory is small.
        if status.st_size * LARGE > _memory() - SPARED:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return hashing.hexdigest().encode()


def link_digest(target: bytes) -> bytes:
    """Return the checksum of a symbolic link: that of what it points to, as text."""
    return hashlib.blake2s(target, digest_size=16).hexdigest().encode()


# --- writing, in a process of its own ----------------------------------------------------------------------


def write(
    top: Path,
    target: Path,
    heading: bytes,
    base: Path | None,
    *,
    use_ctime: bool,
    pulse: Pulse = process.no_pulse,
) -> Sealed:
    """Write the manifest of the tree `top`, with the checksums that `base` already knows."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        try:
            made = _write(top, fresh, heading, _Known(base, use_ctime), pulse)
        except ManifestError as error:
            # Nothing of a broken manifest is believed: what it was good for is read again.
            print(f"{error}; it is not used", file=sys.stderr)
            made = _write(top, fresh, heading, _Known(None, use_ctime), pulse)
        fresh.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        fresh.unlink(missing_ok=True)
    return made


def _write(top: Path, fresh: Path, heading: bytes, known: _Known, pulse: Pulse) -> Sealed:
    tree = open_tree(top)
    try:
        with fresh.open("wb") as file:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as stream:
                made = _fill(stream, tree, heading, known, pulse)
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(tree)
    return made


def _fill(stream: gzip.GzipFile, tree: int, heading: bytes, known: _Known, pulse: Pulse) -> Sealed:
    reader = _Reader(tree, pulse)
    pieces: list[bytes] = [HEADING + heading]
    count = size = 0
    for path, status in walk(tree):
        kind = kind_of(status.st_mode)
        length = status.st_size if kind == b"f" else 0
        if kind == b"f":
            content = known.digest(path, status) or reader.digest(path, status)
        elif kind == b"l":
            content = link_digest(os.readlink(path, dir_fd=tree))
        else:
            content = UNKNOWN
        pieces.append(
            b"%b %d %d %d %d %b %b"
            % (kind, length, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, content, path)
        )
        count, size = count + 1, size + length
        if len(pieces) >= 500:
            stream.write(b"\0".join(pieces) + b"\0")
            pieces.clear()
            pulse()
    known.finish()
    stream.write(b"\0".join([*pieces, b"end %d" % count]) + b"\0")
    return Sealed(count, size, reader.files, reader.bytes, reader.unreadable)


class _Known:
    """Walks a neighbour's manifest beside the tree and lends its checksums."""

    def __init__(self, base: Path | None, use_ctime: bool) -> None:
        self._entries = iter(()) if base is None else read(base)
        self._next = next(self._entries, None)
        self._use_ctime = use_ctime

    def digest(self, path: bytes, status: os.stat_result) -> bytes | None:
        """Return the checksum of a file that is the neighbour's very inode, unchanged; else None."""
        wanted = order(path)
        while self._next is not None and order(self._next.path) < wanted:
            self._next = next(self._entries, None)
        found = self._next
        if found is None or found.path != path or found.kind != b"f" or found.digest == UNKNOWN:
            return None
        same = (found.inode, found.size, found.mtime_ns) == (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        )
        # Every new hard link changes the ctime; where snapshots keep inodes apart it tells of a change.
        if not same or (self._use_ctime and found.ctime_ns != status.st_ctime_ns):
            return None
        return found.digest

    def finish(self) -> None:
        """Read the neighbour to its end, which tells whether what it lent was good."""
        for _ in self._entries:
            pass


class _Reader:
    """Reads new content, files with several names once."""

    def __init__(self, tree: int, pulse: Pulse) -> None:
        self._tree = tree
        self._pulse = pulse
        self._links: OrderedDict[int, bytes] = OrderedDict()
        self.files = self.bytes = self.unreadable = 0

    def digest(self, path: bytes, status: os.stat_result) -> bytes:
        """Return the checksum of a file, or UNKNOWN when the disk does not give it."""
        if found := self._links.get(status.st_ino):
            return found
        try:
            made = digest(self._tree, path, self._pulse)
        except OSError as error:
            if error.errno not in SICK:
                raise
            print(f"{os.fsdecode(path)!r} cannot be read: {error.strerror}", file=sys.stderr)
            self.unreadable += 1
            return UNKNOWN
        self.files, self.bytes = self.files + 1, self.bytes + status.st_size
        if status.st_nlink > 1:
            self._links[status.st_ino] = made
            if len(self._links) > LINKS:
                self._links.popitem(last=False)
        return made


def store_of(config: Config) -> Store:
    """Return the storage of the configured disk."""
    return open_store(config.data_dir)


def describe(
    config: Config, job: Job, tree: Path, taken: datetime, pulse: Pulse = process.no_pulse
) -> Sealed:
    """Write the manifest of a tree that is, or is going to be, the snapshot of that moment."""
    neighbours = sealed(config, job)
    earlier = [each for each in neighbours if each.taken < taken]
    later = [each for each in neighbours if each.taken > taken]
    near = earlier[-1:] or later[:1]
    base = place(config, job, near[0].name) if near else None
    name = snapshot_name(taken)
    heading = os.fsencode(f"{job.name}/{name}")
    use_ctime = store_of(config).kind == "btrfs"
    target = place(config, job, name)
    return write(tree, target, heading, base, use_ctime=use_ctime, pulse=pulse)


def main(words: list[str]) -> int:
    """Write one manifest: MOUNT HOST VOLUME LABEL SNAPSHOT; print the figures of `Sealed`."""
    mount, host, volume, label, name = words
    config = Config(path=Path("-"), data_dir=Path(mount))
    disk.require(config)
    job = Job(host, volume, label, source="/", addresses=())
    store = store_of(config)
    found = [each for each in store.snapshots(job) if each.name == name]
    if not found:
        raise NotNowError(f"{job.name} has no snapshot {name} any more")
    made = describe(config, job, found[0].path, found[0].taken)
    print(made.entries, made.bytes, made.read, made.read_bytes, made.unreadable)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (FlashbackError, OSError) as error:
        # A snapshot that expires while it is read is no failure.
        gone = isinstance(error, FileNotFoundError)
        print(f"flashback: {error}", file=sys.stderr)
        sys.exit(NotNowError.exit_code if gone else getattr(error, "exit_code", 1))
