"""Snapshots as plain trees that share unchanged files by hard links (ext4, xfs and others).

    HOST/VOLUME/LABEL/incoming.N/   left by interrupted fills, linked from, never written to

This module decides nothing about when or what: it prepares, links and deletes.

The sacred rule: no inode that a complete snapshot holds is ever modified.  Therefore a
fill always starts in an empty directory.  To continue an interrupted one by filling it
further would let rsync change a mode or owner in place, on an inode that older snapshots
hold too.  So the interrupted tree is moved aside and linked from, like a snapshot.
"""

from __future__ import annotations

import os
from pathlib import Path

from flashback import process
from flashback.errors import FlashbackError
from flashback.model import Destination, Job, Pulse, Snapshot
from flashback.store import Fill
from flashback.store.trees import (
    INCOMING,
    LONG,
    PARTIAL,
    Trees,
    drop_unsynced,
    names,
    remove_trees,
    sync,
    sync_directory,
    synced_before,
    walk,
)

# rsync takes 20 --link-dest; every further one costs a lookup per file on a slow disk.
LEFTOVERS = 8


class HardlinkStore(Trees):
    """Trees that share files by hard links."""

    kind = "hardlink"

    def begin(self, job: Job, pulse: Pulse) -> Fill:
        """Return an empty directory to fill; what an interrupted run left is linked from."""
        where = self._make_label(job)
        if (where / INCOMING).is_dir():
            self._set_aside(where, pulse)
        self._bound_leftovers(where, pulse)
        (where / INCOMING).mkdir(mode=0o700)
        snapshots = self.snapshots(job)
        newest = snapshots[-1] if snapshots else None
        left = _leftovers(where)[::-1]
        bases = ([newest.name] if newest else []) + left + [each.name for each in self.suspects(job)][-1:]
        # rsync reads a relative --link-dest from inside the directory that it fills.
        options = (*(f"--link-dest=../{name}" for name in bases), f"--partial-dir={where / PARTIAL}")
        fill = Fill(job, Destination(where, INCOMING, (options,)), newest, continued=len(bases) > 1)
        self.checkpoint(fill, pulse)
        return fill

    def begin_copy(self, job: Job, original: Snapshot, pulse: Pulse) -> Fill:
        """Return a fill that links all that `original` holds: no file is copied."""
        where = self._make_label(job)
        if (where / INCOMING).is_dir():
            remove_trees(where, [INCOMING], pulse)
        snapshots = self.snapshots(job)
        fill = Fill(job, Destination(where, INCOMING, ()), snapshots[-1] if snapshots else None)
        # Links to what is complete change nothing in it but the number of its names.
        argv = ["cp", "-a", "-l", "--no-target-directory", "--", str(original.path), INCOMING]
        done = process.run(argv, cwd=where, pulse=pulse, timeout=LONG)
        if done.code != 0:
            said = " ".join(done.stderr.split())[-300:]
            raise FlashbackError(f"{original.path} cannot be linked: {said}", "Nothing was committed")
        return fill

    def _after_commit(self, fill: Fill, pulse: Pulse) -> None:
        where = fill.destination.where
        partial = [PARTIAL] if (where / PARTIAL).is_dir() else []
        remove_trees(where, [*_leftovers(where), *partial], pulse)

    def _set_aside(self, where: Path, pulse: Pulse) -> None:
        """Move an interrupted fill to incoming.N, without the files a power cut may have hollowed out.

        The order makes an interruption of this very step harmless: until the rename the tree
        is still `incoming` with its old checkpoint, and everything here is done again.
        """
        drop_unsynced(where / INCOMING, synced_before(where), where / PARTIAL, pulse)
        sync(where, pulse)
        numbers = [int(name.rpartition(".")[2]) for name in _leftovers(where)]
        (where / INCOMING).rename(where / f"{INCOMING}.{max(numbers, default=0) + 1}")
        sync_directory(where)

    def _bound_leftovers(self, where: Path, pulse: Pulse) -> None:
        """Merge the newest leftovers until few enough remain."""
        while len(left := _leftovers(where)) > LEFTOVERS:
            _absorb(where / left[-1], where / left[-2], pulse)
            remove_trees(where, [left[-1]], pulse)


def _leftovers(where: Path) -> list[str]:
    """Return incoming.1, incoming.2, ... in the order of their numbers."""
    found = [name for name in names(where) if name.startswith(f"{INCOMING}.") and name[9:].isdigit()]
    return sorted(found, key=lambda name: int(name[9:]))


def _absorb(newer: Path, older: Path, pulse: Pulse) -> None:
    """Move the files of one leftover into another; only names move, no file is opened."""
    for count, entry in enumerate(walk(newer)):
        if count % 500 == 0:
            pulse()
        target = older / Path(entry.path).relative_to(newer)
        if entry.is_dir(follow_symlinks=False):
            if not os.path.lexists(target):
                target.mkdir(mode=0o700)
        elif target.parent.is_dir() and not target.parent.is_symlink() and not target.is_dir():
            Path(entry.path).replace(target)
