"""Pack a snapshot, or paths of it, into one tar or zip file.

tar is written by GNU tar in the pax format and keeps all there is but sockets: owners, modes,
times to the nanosecond, hard links, devices, holes, attributes and access control lists.  zip
keeps names, contents, modes, owners by number, links, and times to the second.

Both are written in one go, to files and pipes alike, and memory does not grow with the number
of files.  Files that the disk is known not to give are left out, for whoever calls to name them.
The sacred rule: a file that bears the wanted name is complete.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flashback import process
from flashback.beside import beneath, opened, whole
from flashback.errors import FlashbackError, UsageError
from flashback.gauge import Gauge
from flashback.picking import Chosen
from flashback.zipping import Zip

TAR = (
    "tar", "--create", "--format=pax", "--sparse", "--acls", "--xattrs", "--xattrs-include=*",
    "--xattrs-exclude=trusted.SGI_ACL_*", "--numeric-owner", "--pax-option=delete=atime,delete=ctime",
    # A backup that runs meanwhile links to files that have not changed, which tar takes for a change.
    "--warning=no-file-changed",
    "--force-local", "--verbose", "--anchored", "--no-wildcards",
)  # fmt: skip
LONG = 7 * 86400.0
PIECE = 1 << 18
# tar's exit status when something was not as it was at first; it says what, but for changes as above.
DIFFERS = 1


def refuse(place: Path, *, overwrite: bool) -> None:
    """Refuse a name for an archive that is taken, or that is not to be had."""
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent} is not a directory", "Make it, or name another one")
    if os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
        raise UsageError(f"{place} is no regular file", "Name another one")
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists already", "Name another file, or use --overwrite")


@contextmanager
def fresh(place: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside `place` that takes its name when all went well, and is removed otherwise."""
    # Only its owner may read it: it holds what only root could read.
    descriptor, name = tempfile.mkstemp(prefix=".flashback-", suffix=".incomplete", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(place)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        # Closing writes what was held back, which a full disk refuses once more.
        if isinstance(error, OSError):
            raise FlashbackError(f"{place} is not complete: {error.strerror}") from None
        raise


def tar(chosen: Chosen, target: BinaryIO, gauge: Gauge) -> list[str]:
    """Write a tar of what was chosen; return what it could not keep."""
    # A name that begins with a dash is no option.
    names = [path if path == "." else f"./{path}" for path in chosen.sources]
    lost = [f"--exclude=./{os.fsdecode(path)}" for path in chosen.damaged]
    outlet, inlet = os.pipe()
    pump = _Pump(outlet, target, gauge)
    try:
        # tar opens the pipe by its name: its standard output is for the names of what it packs, a line each.
        done = process.run(
            [*TAR, *lost, f"--file=/dev/fd/{inlet}", "--", *names],
            cwd=chosen.snapshot.path,
            timeout=LONG,
            pass_fds=(inlet,),
            on_output=lambda text: gauge.more(files=text.count("\n")),
        )
    finally:
        os.close(inlet)
        pump.join()
    whole(chosen.snapshot.path)
    if pump.error is not None:
        raise FlashbackError(f"The archive is not complete: {pump.error}")
    said = [line for line in done.stderr.splitlines() if not line.endswith("socket ignored")]
    if done.code not in (0, DIFFERS) or said:
        words = " ".join(" ".join(said).split())[-300:]
        raise FlashbackError(f"The archive is not complete: tar ended with {done.code}: {words}")
    return ["tar cannot keep sockets"] if done.stderr else []


class _Pump(threading.Thread):
    """Carries bytes from a pipe to a file until the pipe is closed; an error of the file closes it too."""

    def __init__(self, outlet: int, target: BinaryIO, gauge: Gauge) -> None:
        super().__init__(daemon=True)
        self._outlet = outlet
        self._target = target
        self._gauge = gauge
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        """Carry."""
        try:
            while piece := os.read(self._outlet, PIECE):
                self._target.write(piece)
                self._gauge.more(size=len(piece))
            self._target.flush()
        except OSError as error:
            self.error = error
        finally:
            os.close(self._outlet)


def zip_(chosen: Chosen, target: BinaryIO, gauge: Gauge) -> list[str]:
    """Write a zip of what was chosen; return what it could not keep."""
    lost = {os.fsdecode(path) for path in chosen.damaged}
    try:
        with opened([chosen.snapshot.path]) as (tree,), Zip(tree, target, gauge) as archive:
            for source in chosen.sources:
                for path in beneath(tree, source):
                    if path not in lost:
                        archive.add(path)
            archive.finish()
            return archive.lost()
    except OSError as error:
        raise FlashbackError(f"The archive is not complete: {error}") from None
