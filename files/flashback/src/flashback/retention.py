"""Decide which finished snapshots may be deleted.

Everything here is arithmetic on dates: no disk is read and nothing is removed.  The store
does the deleting.

The sacred rule: the newest snapshot is kept whatever the settings say, so that no setting
can leave a client without any backup.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime


def expired(taken: Iterable[datetime], keep: int) -> list[datetime]:
    """Return the snapshots that are not among the newest `keep`, oldest first."""
    newest_first = sorted(set(taken), reverse=True)
    return newest_first[max(keep, 1) :][::-1]
