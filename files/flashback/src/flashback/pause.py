"""Remember which jobs a person has paused, and until when.

A small file on the backup disk, so that a pause outlives a restart and a new board.  The
sacred rule: every pause ends by itself; a forgotten one would be a backup that never comes.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from flashback.disk import META
from flashback.errors import UsageError
from flashback.model import Job, iso, moment

# Nobody remembers a longer one.
LONGEST = timedelta(days=31)


def load(data_dir: Path, now: datetime) -> dict[str, datetime]:
    """Return the end of each pause that still holds, by target; the empty target is everything."""
    try:
        found = json.loads(_file(data_dir).read_text(encoding="utf-8"))
        ends = {str(target): moment(text) for target, text in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {target: end for target, end in ends.items() if now < end <= now + LONGEST}


def of(pauses: dict[str, datetime], job: Job) -> datetime | None:
    """Return until when a job is paused, by itself, its volume, its host or altogether."""
    targets = ("", job.host, f"{job.host}/{job.volume}", job.name)
    return max((pauses[target] for target in targets if target in pauses), default=None)


def begin(data_dir: Path, target: str, seconds: int, now: datetime) -> datetime:
    """Pause a target for so many seconds and return the end of the pause."""
    end = (now + timedelta(seconds=seconds)).astimezone(timezone.utc).replace(microsecond=0)
    if end > now + LONGEST:
        raise UsageError(
            f"A pause of {seconds // 86400} days is too long",
            f"At most {LONGEST.days} days are possible; `disabled: true` in the configuration lasts",
        )
    _write(data_dir, {**load(data_dir, now), target: end})
    return end


def end(data_dir: Path, target: str, now: datetime) -> bool:
    """End the pause of a target; return False when there was none."""
    pauses = load(data_dir, now)
    if pauses.pop(target, None) is None:
        return False
    _write(data_dir, pauses)
    return True


def _file(data_dir: Path) -> Path:
    return data_dir / META / "paused.json"


def _write(data_dir: Path, pauses: dict[str, datetime]) -> None:
    fresh = _file(data_dir).with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump({target: iso(end) for target, end in pauses.items()}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(_file(data_dir))
