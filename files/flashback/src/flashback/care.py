"""What is known beyond the last pass: damaged files, drills, open doors, when the disk will be full.

Gathered by whoever verifies, into one small file on the backup disk; read by the daemon at
every pass, which therefore need not load what gathers it.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flashback.disk import META
from flashback.model import Config, iso, moment
from flashback.status import Care, Doors, Drill

# What the forecast looks back on.
WEEKS = timedelta(days=60)


def load(data_dir: Path) -> Care:
    """Return what was gathered last; nothing when there is none that can be read."""
    try:
        found = json.loads(_file(data_dir).read_text(encoding="utf-8"))
        return Care(
            damaged=tuple(found["damaged"]),
            verified_at=found["verified_at"] and moment(found["verified_at"]),
            drills=tuple(Drill(**{**each, "at": moment(each["at"])}) for each in found["drills"]),
            doors=tuple(Doors(**{**each, "at": moment(each["at"])}) for each in found.get("doors", ())),
            proven={name: moment(taken) for name, taken in found["proven"].items()},
            forecast=found["forecast"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Care()


def gather(config: Config, now: datetime) -> None:
    """Write down what the ledger, the history and the disk say now."""
    from flashback import doors, drill, forecast, verify  # noqa: PLC0415 - heavy, the daemon imports this
    from flashback.history import History  # noqa: PLC0415 - as above

    proven = {job.name: drill.proven(config, job) for job in config.jobs}
    found: dict[str, Any] = {
        "damaged": [name for each in verify.damage(config) for name in each.names[:1]],
        "verified_at": iso(verify.verified_at(config)),
        "drills": [
            {
                "host": host,
                "at": iso(last.at),
                "snapshot": ", ".join(last.snapshots),
                "good": last.good,
                "reason": "; ".join(last.problems[:3]),
            }
            for host, last in drill.last(config).items()
        ],
        "doors": [
            {"host": each.host, "at": iso(each.at), "problems": each.problems} for each in doors.last(config)
        ],
        "proven": {name: iso(taken) for name, taken in proven.items() if taken is not None},
        "forecast": forecast.sentence(History(config.data_dir).disk_use(now - WEEKS), config.reserve_percent),
    }
    fresh = _file(config.data_dir).with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    fresh.replace(_file(config.data_dir))


def _file(data_dir: Path) -> Path:
    return data_dir / META / "care.json"
