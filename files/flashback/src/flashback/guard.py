"""Decide whether a new snapshot is suspicious: its source was emptied, encrypted or replaced.

Arithmetic on figures.  A file of the newest snapshot is lost or altered when the new tree
has no file of the same path and content.  A snapshot is suspicious when the source has no
file any more, or when more than `percent` of the files, or of the bytes, were lost or
altered, unless the job's history shows such turnover as its habit: the share must also
exceed twice the third largest of the last runs.  Trees of a few files turn over completely
when somebody tidies up; below SMALL files only an emptied source counts.  When the source
is on another file system than before, another disk may have been mounted there: then far
less is too much, however few files there are.

The sacred rule: an emptied source is always held back.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flashback.model import SUSPECT, Changes, Run

# Fewer files than this in the newest snapshot say nothing by their share.
SMALL = 20
# A job that loses or alters this share every night (a folder of dumps) has no usual to be compared with.
ALMOST_ALL = 0.9
# ... and from another file system this share is too much: a disk that was copied and replaced loses nothing.
STRANGER = 0.1


@dataclass(frozen=True)
class Totals:
    """Regular files of the newest snapshot, and their bytes."""

    files: int
    bytes: int


def judge(  # noqa: PLR0911 - one line for each answer
    changes: Changes, before: Totals, usual: Sequence[float], percent: int, *, moved: bool = False
) -> str | None:
    """Return why a new snapshot should be held back, in one sentence, or None when it looks well.

    `usual` has the share of lost or altered files of earlier runs, from 0 to 1; `moved` tells that the
    source is on another file system than before.
    """
    if before.files == 0:
        return None
    if changes.files == 0:
        return (
            f"the source holds no file any more, the newest snapshot has {before.files}; "
            "is its disk mounted on the client?"
        )
    gone = share(before.files - changes.kept, before.files)
    if moved and gone > STRANGER:
        return (
            f"the source is on another file system than before, and {before.files - changes.kept} of the "
            f"{before.files} files of the newest snapshot ({gone:.0%}) are not there; is it the right disk?"
        )
    if before.files < SMALL:
        return None
    gone_bytes = share(before.bytes - changes.kept_bytes, before.bytes)
    limit = max(percent / 100, min(2 * habit(usual), ALMOST_ALL))
    if habit(usual) >= ALMOST_ALL:
        return None
    if gone > limit:
        return (
            f"{before.files - changes.kept} of the {before.files} files of the newest snapshot ({gone:.0%}) "
            f"were lost or altered, at most {limit:.0%} are usual"
        )
    if gone_bytes > limit and gone > limit / 4:
        return (
            f"{gone_bytes:.0%} of the bytes of the newest snapshot were lost or altered, "
            f"at most {limit:.0%} are usual"
        )
    return None


def vanished(missing: int, listed: int, percent: int) -> str:
    """Return, when too many of the listed files did not arrive, why a tree is not what its source was."""
    if share(missing, listed) <= percent / 100:
        return ""
    return f"{missing} of {listed} files vanished or could not be read while they were fetched"


def habit(usual: Sequence[float]) -> float:
    """Return the share that a job loses or alters regularly: the third largest, for two may be accidents."""
    return sorted(usual, reverse=True)[2] if len(usual) > 2 else 0.0


def turnover(runs: Sequence[Run], complete: Collection[str] = ()) -> list[float]:
    """Return the shares of files lost or altered in a job's good runs, given newest first.

    `complete` has the names of the job's snapshots: what was held back and then accepted is
    among them, and counts as a habit; what is still held back, or was rejected, does not.
    """
    good = [
        run
        for run in runs
        if run.snapshot and (not run.snapshot.startswith(SUSPECT) or run.snapshot[len(SUSPECT) :] in complete)
    ]
    return [
        share(before.regular - (run.regular - run.changed), before.regular)
        for run, before in itertools.pairwise(good)
        if before.regular >= SMALL
    ]


def share(part: int, whole: int) -> float:
    """Return a share from 0 to 1."""
    return min(1.0, max(0, part) / whole) if whole else 0.0
