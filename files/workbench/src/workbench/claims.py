"""Let one run at a time work on a virtual plug."""

from __future__ import annotations

import json
from pathlib import Path

from workbench import cache, processes
from workbench.errors import WorkbenchError


def claim(folder: Path) -> None:
    """Note that the present run works in this folder; refuse while another, living run does."""
    folder.mkdir(parents=True, exist_ok=True)
    # Keys and backups lie in it, on the stick and on the disk too.
    folder.chmod(0o700)
    note = folder / "run.json"
    mine = processes.launcher()
    with cache.locked(folder / "run.lock", f"Another run has just begun in {folder}"):
        other = _owner(note)
        if other and other != mine and other.alive:
            raise WorkbenchError(
                f"Another run (process {other.pid}) is at work on the plug in {folder}",
                "Wait for it to end, or give this one a folder of its own with PLUG_DIR",
            )
        note.write_text(json.dumps({"pid": mine.pid, "started": mine.started}) + "\n")


def _owner(note: Path) -> processes.Process | None:
    try:
        record = json.loads(note.read_text())
        return processes.Process(record["pid"], record["started"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
