"""Keep what is slow to build, under the hash of the recipe it was built from.

An entry is a folder that bears its final name only when it is complete, so an interrupted build is
never taken for a finished one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError

GIB = 1 << 30


def default_root() -> Path:
    """Return the folder of the cache: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "backup-plug"


def recipe_name(kind: str, recipe: Mapping[str, Any]) -> str:
    """Return the name of the entry that this recipe makes."""
    canonical = json.dumps(recipe, sort_keys=True).encode()
    return f"{kind}-{hashlib.sha256(canonical).hexdigest()[:16]}"


def entry(root: Path, kind: str, recipe: Mapping[str, Any]) -> Path | None:
    """Return the finished entry of a recipe, if there is one."""
    path = root / recipe_name(kind, recipe)
    return path if path.is_dir() else None


def build(
    root: Path, kind: str, recipe: Mapping[str, Any], bytes_needed: int, make: Callable[[Path], None]
) -> Path:
    """Return the entry of a recipe, made by ``make`` in an empty folder when it is not there yet."""
    name = recipe_name(kind, recipe)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f"{name}.lock", f"Another run is building {name}"):
        if found := entry(root, kind, recipe):
            return found
        require_space(root, bytes_needed)
        unfinished = root / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            make(unfinished)
            (unfinished / "recipe.json").write_text(json.dumps(recipe, indent=2, sort_keys=True) + "\n")
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return unfinished.rename(root / name)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file for the length of a ``with``; raise ``busy`` at once when another process has it."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkbenchError(busy, "Wait for it to end, then start again") from None
        yield


def require_space(folder: Path, bytes_needed: int) -> None:
    """Refuse to begin what would fill the disk."""
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise WorkbenchError(
            f"{folder} has {free / GIB:.1f} GiB free and {bytes_needed / GIB:.1f} GiB are needed",
            "Make room there, or put the cache elsewhere with XDG_CACHE_HOME and the plug with PLUG_DIR",
        )
