"""From raw results to medians and ratios: arithmetic only, nothing is read or written.

A round's month is one value: the sum, or the largest, of its days.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Whose figures the others are compared with; the first of them that was measured.
OURS = ("flashback-manifest", "flashback-full")
MEASURES = (
    "wall_s", "server_cpu_s", "client_cpu_s", "peak_anonymous", "wire", "disk_reads", "disk_read",
    "disk_writes", "disk_written", "growth",
)  # fmt: skip
# What of a month is its largest day and not the sum of its days.
LARGEST = ("peak_anonymous",)
# Names that the processes of the engine have; all others are C tools that it calls.
ENGINE = ("python", "python3", "flashback")


@dataclass(frozen=True)
class Spread:
    """The middle of the rounds, and their ends."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Cell:
    """What one program did in one phase on one file system."""

    figures: dict[str, Spread]
    programs: dict[str, float]
    """Seconds of processor by program of the server's side, median of the rounds."""
    engine_peak: float
    """Largest resident size of the engine's own Python, bytes."""
    rounds: int
    failures: tuple[str, ...] = ()
    differs: dict[str, int] | None = None
    """What of a restored tree is not what it was, if everything was restored."""


Table = dict[str, dict[str, Cell]]
"""Phase, then program."""


def tables(runs: Iterable[dict[str, Any]]) -> dict[str, Table]:
    """Return what the runs come to, by file system, phase and program, in the order of the runs."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["fs"], run["phase"], run["tool"]].append(run)
    made: dict[str, Table] = {}
    for (fs, phase, tool), found in groups.items():
        made.setdefault(fs, {}).setdefault(phase, {})[tool] = cell(found)
    return made


def cell(runs: Sequence[dict[str, Any]]) -> Cell:
    """Return what the runs of one program in one phase come to; a round with a failure has no figures."""
    rounds: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        rounds[run["round"]].append(run)
    good = [days for days in rounds.values() if all(day["ok"] for day in days)]
    failures = tuple(dict.fromkeys(run["said"] for run in runs if not run["ok"]))
    figures = {name: spread([_together(name, days) for days in good]) for name in MEASURES} if good else {}
    names = sorted({name for days in good for day in days for name in day["cpu_by_program_s"]})
    programs = {
        name: statistics.median(sum(day["cpu_by_program_s"].get(name, 0.0) for day in days) for days in good)
        for name in names
    }
    engine = [
        max((day["peak_by_program"].get(name, 0) for day in days for name in ENGINE), default=0)
        for days in good
    ]
    differs = next((run["differs"] for run in reversed(runs) if "differs" in run), None)
    peak = float(statistics.median(engine)) if good else 0.0
    return Cell(figures, programs, peak, len(good), failures, differs)


def spread(values: Sequence[float]) -> Spread:
    """Return the median and both ends."""
    return Spread(statistics.median(values), min(values), max(values))


def ours(row: dict[str, Cell]) -> str | None:
    """Return which of our ways the others are compared with, if one of them has figures."""
    return next((name for name in OURS if name in row and row[name].figures), None)


def ratio(row: dict[str, Cell], tool: str, measure: str) -> float | None:
    """Return how many times ours a program's figure is, or None where there is no telling."""
    base = ours(row)
    if base is None or not row[tool].figures:
        return None
    mine, other = row[base].figures[measure].median, row[tool].figures[measure].median
    return other / mine if mine > 0 else None


def ahead(row: dict[str, Cell], measure: str, margin: float = 0.95) -> list[str]:
    """Return the programs whose figure is clearly below ours, the best first; none when ours is nothing."""
    found = {
        tool: value
        for tool in row
        if tool not in OURS and (value := ratio(row, tool, measure)) is not None and value < margin
    }
    return sorted(found, key=lambda tool: found[tool])


def engine_share(cell: Cell) -> tuple[float, float]:
    """Return the seconds of processor of the engine's own Python, and of all the programs that it calls."""
    own = sum(seconds for name, seconds in cell.programs.items() if name in ENGINE)
    return own, sum(cell.programs.values()) - own


def _together(name: str, days: Sequence[dict[str, Any]]) -> float:
    if name == "wire":
        values = [day["wire_from_client"] + day["wire_to_client"] for day in days]
    else:
        values = [day[name] for day in days]
    return float(max(values) if name in LARGEST else sum(values))
