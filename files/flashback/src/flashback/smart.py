"""What the backup disk says of its own health, from what `smartctl --json` has written.

The engine is not root and may ask no disk: a unit of the system writes the file, hour by hour.  Format:
smartctl(8), json_format_version 1.  A disk, or a bridge, that tells nothing is no reason for an alarm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

# Counts that stand for content which can not be read any more, by the numbers of their ATA attributes.
# A count of sectors that were replaced in time (5) is told, not alarmed for.
UNREADABLE = {197: "sectors that can not be read now", 198: "sectors that could not be read"}
REPLACED = 5
# An older file says nothing of today.
OLD = timedelta(days=8)


@dataclass(frozen=True)
class Smart:
    """How the disk is; numbers that it does not tell are None."""

    known: bool = False
    at: datetime | None = None
    problems: tuple[str, ...] = ()
    temperature: int | None = None
    """Degrees Celsius."""
    hours: int | None = None
    """For how long it has been switched on."""
    replaced: int | None = None
    """Sectors that it has replaced by spare ones."""


def read(path: Path | None, now: datetime) -> Smart:
    """Return what the file says; that nothing is known when it is absent, broken or old."""
    if path is None:
        return Smart()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = judge(said)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Smart()
    return found if found.at is not None and now - found.at <= OLD else Smart()


def judge(said: Mapping[str, Any]) -> Smart:
    """Return what smartctl's document means."""
    counts = {
        each["id"]: each["raw"]["value"] for each in said.get("ata_smart_attributes", {}).get("table", ())
    }
    passed = said.get("smart_status", {}).get("passed")
    problems = ["it expects to fail soon"] if passed is False else []
    problems += [f"{counts[number]} {words}" for number, words in UNREADABLE.items() if counts.get(number)]
    tests = said.get("ata_smart_self_test_log", {}).get("standard", {}).get("table", ())
    # The newest comes first; one that was interrupted says neither.
    results = [each["status"]["passed"] for each in tests if "passed" in each["status"]]
    if results[:1] == [False]:
        problems.append("its last test of itself failed")
    worn = said.get("nvme_smart_health_information_log", {}).get("media_errors")
    if worn:
        problems.append(f"{worn} errors of its memory")
    return Smart(
        known=passed is not None,
        at=datetime.fromtimestamp(said["local_time"]["time_t"], timezone.utc),
        problems=tuple(problems),
        temperature=said.get("temperature", {}).get("current"),
        hours=said.get("power_on_time", {}).get("hours"),
        replaced=counts.get(REPLACED),
    )
