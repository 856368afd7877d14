"""Count how a filled tree differs from the newest snapshot.

Usually rsync's own figures tell: what it did not transfer is unchanged.  After an
interrupted fill they do not, for what arrived earlier is not transferred again; then both
trees are walked side by side.  A file is the same when path, size and time are, as rsync
has it; another mode or owner alters no content.

The walk runs in a process of its own at idle priority; it holds the names of
folders still to visit in memory, never a list of files.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from flashback import process
from flashback.errors import FlashbackError
from flashback.guard import Totals
from flashback.model import Changes, Pulse

LONG = 86400.0


def from_figures(regular: int, size: int, changed: int, changed_bytes: int) -> Changes:
    """Return what rsync's figures of an uninterrupted fill say."""
    return Changes(regular, size, max(0, regular - changed), max(0, size - changed_bytes))


def count(old: Path, new: Path, pulse: Pulse) -> tuple[Changes, Totals]:
    """Return how `new` differs from `old`, and what `old` holds, by walking both."""
    argv = [
        "nice",
        "-n",
        "19",
        "ionice",
        "-c",
        "3",
        sys.executable,
        "-m",
        "flashback.changes",
        str(old),
        str(new),
    ]
    done = process.run(argv, pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise FlashbackError(f"{new} cannot be compared with {old}: {' '.join(done.stderr.split())[-300:]}")
    found = json.loads(done.stdout)
    return Changes(*found["changes"]), Totals(*found["before"])


def walk(old: Path, new: Path) -> tuple[Changes, Totals]:
    """Do the counting in this process."""
    files = size = kept = kept_bytes = 0
    before_files = before_bytes = 0
    # Where only one tree has a folder the other may have a link, which must not be followed.
    pending = [(b"", True, True)]
    while pending:
        folder, in_old, in_new = pending.pop()
        for name, entry in _entries(old, folder) if in_old else ():
            path = folder + b"/" + name
            if stat.S_ISREG(entry.st_mode):
                before_files += 1
                before_bytes += entry.st_size
            elif stat.S_ISDIR(entry.st_mode):
                pending.append((path, True, in_new and _is_folder(_status(new, path))))
        for name, entry in _entries(new, folder) if in_new else ():
            path = folder + b"/" + name
            before = _status(old, path) if in_old else None
            if stat.S_ISDIR(entry.st_mode) and not _is_folder(before):
                pending.append((path, False, True))
            if not stat.S_ISREG(entry.st_mode):
                continue
            files += 1
            size += entry.st_size
            if before is not None and _same(before, entry):
                kept += 1
                kept_bytes += entry.st_size
    return Changes(files, size, kept, kept_bytes), Totals(before_files, before_bytes)


def _entries(top: Path, folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield what a folder holds, one at a time; nothing when it is not there or no folder."""
    try:
        with os.scandir(os.fsencode(top) + folder) as entries:
            for entry in entries:
                yield entry.name, entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return


def _status(top: Path, path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(os.fsencode(top) + path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_folder(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return stat.S_ISREG(one.st_mode) and (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


if __name__ == "__main__":
    made, held = walk(Path(sys.argv[1]), Path(sys.argv[2]))
    print(
        json.dumps(
            {
                "changes": [made.files, made.bytes, made.kept, made.kept_bytes],
                "before": [held.files, held.bytes],
            }
        )
    )
