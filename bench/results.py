"""The raw results: a file of JSON lines, one for each command that was measured, only ever appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measure import Figures

# Before the name of a phase: what a program did by itself after its backup.
IDLE = "idle-"


@dataclass(frozen=True)
class Key:
    """What one measurement is of; a finished one is not made again."""

    size: str
    fs: str
    round: int
    phase: str
    day: int
    tool: str


class Results:
    """One file of results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mend()
        self.finished = {key for key, _ in runs(path)} if path.exists() else set()

    def note_machine(self, **facts: Any) -> None:
        """Add what the following results were measured on."""
        self._append({"kind": "machine", **facts})

    def note(self, key: Key, figures: Figures, **more: Any) -> None:
        """Add one measurement; one that failed is finished too, with its words."""
        ok = figures.exit == 0
        said = {} if ok else {"said": figures.said}
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(figures).items()
            if name != "said"
        }
        self._append({"kind": "run", **asdict(key), "ok": ok, **said, **rounded, **more})
        self.finished.add(key)

    def _mend(self) -> None:
        """Cut off a last line that an interruption has left unfinished."""
        if self.path.exists():
            content = self.path.read_bytes()
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def _append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what is in a file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def runs(path: Path) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield the measurements of a file with their keys."""
    for record in records(path):
        if record["kind"] == "run":
            yield Key(**{name: record[name] for name in Key.__dataclass_fields__}), record
