"""Keep the listings of a job's snapshots on the backup disk.

    .flashback/listings/HOST/VOLUME/LABEL/2026-11-23T030000Z.txt       the listing (see listing.py)
    .flashback/listings/HOST/VOLUME/LABEL/2026-11-23T030000Z.special   entries with attributes that it lacks
    .flashback/listings/HOST/VOLUME/LABEL/2026-11-23T030000Z.touched   entries that are not those of its base
    .flashback/listings/HOST/VOLUME/LABEL/2026-11-23T030000Z.json      what is known of it: written last
    .flashback/listings/HOST/VOLUME/LABEL/2026-11-23T030000Z.begun     how and when it was fetched as a whole
    .flashback/listings/HOST/VOLUME/LABEL/fresh.*, idle.*              being made

The newest has a listing; of the older ones only what was touched is kept, as far back as there are trees.

The sacred rule: a listing without its .json does not exist, and the .json appears only after the
snapshot that it describes is complete and on the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flashback import process
from flashback.disk import META
from flashback.listing import UnclearError
from flashback.model import Job, Pulse

FRESH = "fresh"
# What is made between the backups has names of its own: a backup may begin meanwhile.
IDLE = "idle"
KINDS = ("json", "txt", "special", "touched", "begun")


LONG = 86400.0
# The .json comes last.
MADE = ("txt", "special", "touched", "json")


@dataclass(frozen=True)
class Known:
    """What is known of a listing; `recipe` tells how its tree was fetched, `full_at` is text of `iso`."""

    recipe: str
    full_at: str
    """When everything was compared for the last time."""
    entries: int
    files: int
    bytes: int
    base: str | None = None
    """The snapshot of which it shares all that was not touched; None where everything was compared."""


class Shelf:
    """The listings of one job."""

    def __init__(self, root: Path, job: Job, making: str = FRESH) -> None:
        self._making = making
        self._folder = root / META / "listings" / job.host / job.volume / job.label

    def known(self, name: str) -> Known | None:
        """Return what is known of the listing of a snapshot, or None when there is none to rely upon."""
        try:
            found = Known(**json.loads(self._place(name, "json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found

    def has_listing(self, name: str) -> bool:
        """Return whether there is a listing of a snapshot to rely upon."""
        return self.known(name) is not None and self.text(name).is_file()

    def touched_since(self, older: str, newest: str) -> set[bytes] | None:
        """Return the names of all entries in which two snapshots may differ; None when it is not known."""
        names: set[bytes] = set()
        while newest != older:
            known = self.known(newest)
            if known is None or known.base is None or newest < older:
                return None
            names |= self._names(newest, "touched")
            newest = known.base
        return names

    def text(self, name: str) -> Path:
        """Return where the listing of a snapshot is."""
        return self._place(name, "txt")

    def special(self, name: str) -> frozenset[bytes]:
        """Return the names that have attributes which no listing shows."""
        return frozenset(self._names(name, "special"))

    def _names(self, name: str, kind: str) -> set[bytes]:
        return {each for each in self._place(name, kind).read_bytes().split(b"\0") if each}

    def fresh(self, kind: str) -> Path:
        """Return the place of something that is being made; the folder is there afterwards."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder / f"{self._making}.{kind}"

    def describe(self, known: Known, special: Iterable[bytes], touched: Iterable[bytes] = ()) -> None:
        """Write down what is known of the listing that is being made."""
        self.fresh("special").write_bytes(b"\0".join(sorted(special)))
        self.fresh("touched").write_bytes(b"\0".join(sorted(touched)))
        self.fresh("json").write_text(json.dumps(asdict(known)) + "\n", encoding="utf-8")

    def put(self, name: str) -> None:
        """Make what was made the listing of a snapshot. Its files have to be on the disk already."""
        for kind in MADE:
            self.fresh(kind).rename(self._place(name, kind))

    def begin(self, name: str, recipe: str, started: str) -> None:
        """Remember how and when a snapshot was fetched of which the listing is still to be made."""
        self.fresh("begun").write_text(json.dumps([recipe, started]) + "\n", encoding="utf-8")
        self.fresh("begun").rename(self._place(name, "begun"))

    def begun(self, name: str) -> tuple[str, str] | None:
        """Return what `begin` has written, or None."""
        try:
            recipe, started = json.loads(self._place(name, "begun").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(recipe), str(started)

    def forget(self, name: str) -> None:
        """Rely no longer upon the listing of a snapshot."""
        for kind in KINDS:
            self._place(name, kind).unlink(missing_ok=True)

    @staticmethod
    def forget_volume(root: Path, host: str, volume: str) -> None:
        """Rely no longer upon any listing of a volume."""
        for path in (root / META / "listings" / host / volume).glob("*/*.*"):
            path.unlink(missing_ok=True)

    def sweep(self, trees: Collection[str], newest: str | None) -> None:
        """Keep the listing of the newest, and what was touched since the oldest of these trees."""
        oldest = min(trees, default=None)
        for path in self._folder.glob("*.*"):
            name, _, kind = path.name.rpartition(".")
            old = name != newest and kind in ("txt", "special", "begun")
            if name not in (FRESH, IDLE) and (old or oldest is None or name < oldest):
                path.unlink(missing_ok=True)

    def _place(self, name: str, kind: str) -> Path:
        return self._folder / f"{name}.{kind}"


def differing(old: Path, new: Path, difference: Path, pulse: Pulse) -> None:
    """Write the lines that only one of two sorted files has, those of the second after a tab."""
    # Read ahead in large pieces: a disk seeks a hundred times a second.
    for path in (old, new):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        os.close(descriptor)
    (done,) = process.pipeline([["comm", "-3", str(old), str(new)]], difference, pulse=pulse, timeout=LONG)
    if done.code != 0:
        raise UnclearError(f"the listings cannot be compared: {' '.join(done.stderr.split())[-300:]}")
