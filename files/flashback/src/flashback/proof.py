"""Compare what was restored with what was stored.

The manifest says what the content was on the day of the backup: a file that rotted on the disk since
then, and that nobody has noticed yet, is found by the way.  Without a manifest the stored files are read
again.  Modes, owners and attributes are those of the snapshot.  Nothing is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flashback import manifest, picking
from flashback.beside import beneath, look, opened
from flashback.compare import Both, listed, metadata, same_content
from flashback.manifest import UNKNOWN, Entry
from flashback.model import Config
from flashback.picking import Chosen, shown


def faults(config: Config, chosen: Chosen, to: Path, *, owners: bool) -> Iterator[str]:
    """Yield a line for each path that is missing below `to` or differs; what only `to` has is no fault."""
    with opened([chosen.snapshot.path, to]) as (stored, given):
        for source in chosen.sources:
            for path, entry in _expected(config, chosen, stored, source):
                fault = _fault(stored, given, path, entry, owners)
                if fault and os.fsencode(path) not in chosen.damaged:
                    yield f"{fault}: {shown(os.fsencode(path))}"


def _expected(config: Config, chosen: Chosen, stored: int, source: str) -> Iterator[tuple[str, Entry | None]]:
    """Yield every path at or below a source, with its entry in the manifest if there is one."""
    snapshot = chosen.snapshot
    place = manifest.place(config, picking.job_at(config, snapshot.path.parent), snapshot.path.name)
    if place.is_file():
        # Its paths stand together: what leads to them is skipped, what follows is not read.
        begun = False
        for entry in manifest.read(place, after=b"" if source == "." else os.fsencode(source)[:-1]):
            path = os.fsdecode(entry.path)
            if picking.holds(source, path):
                begun = True
                yield path, entry
            elif begun:
                return
        return
    for path in beneath(stored, source):
        yield path, None


def _fault(stored: int, given: int, path: str, entry: Entry | None, owners: bool) -> str:
    """Return how a restored entry falls short, or nothing."""
    one, other = look(stored, path), look(given, path)
    if one is None:
        return "lost on the backup disk"
    if other is None:
        return "missing"
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return "type differs"
    try:
        found = metadata(stored, given, path, (one, other))
        kept = _content_kept(stored, given, path, entry, (one, other))
    except OSError as error:
        return f"not to be compared ({error.strerror})"
    if not kept:
        found.add("content")
    if not owners:
        found.discard("owner")
    # Times of folders are left out of a comparison of snapshots, where every change in a folder alters them.
    wanted = entry.mtime_ns if entry and entry.kind == b"f" else one.st_mtime_ns
    if other.st_mtime_ns != wanted:
        found.add("time")
    return f"{listed(found)} differs" if found else ""


def _content_kept(stored: int, given: int, path: str, entry: Entry | None, both: Both) -> bool:
    if entry is None or entry.digest == UNKNOWN:
        return same_content(stored, given, path, both)
    if stat.S_ISLNK(both[1].st_mode):
        return manifest.link_digest(os.fsencode(os.readlink(path, dir_fd=given))) == entry.digest
    return both[1].st_size == entry.size and manifest.digest(given, os.fsencode(path)) == entry.digest
