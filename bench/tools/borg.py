"""BorgBackup 1.2: chunks, compressed and encrypted on the client, kept by `borg serve`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.places import HOST, Lot, Place, pushed_to
from bench.tools.base import Argv, Tool, chain


class Borg(Tool):
    """Runs on the client and pushes."""

    name = "borg"
    how = (
        "`borg create` on the client into `borg serve`, `repokey` encryption, lz4, then `prune` and `compact`"
    )
    pushes = True
    program: ClassVar[Argv] = ["borg", "--version"]
    package = "borgbackup"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._repository = f"ssh://{HOST}{place.disk}/borg"
        self.env = {
            "BORG_PASSPHRASE": "correct horse",
            "BORG_RSH": f"ssh -F {place.folder}/ssh_config",
            "BORG_BASE_DIR": str(place.folder / "client"),
            "BORG_REPO": self._repository,
        }

    @classmethod
    @contextlib.contextmanager
    def settled(cls, lot: Lot) -> Iterator[Tool]:
        """Yield it with a new repository."""
        forced = f"borg serve --restrict-to-path {lot.folder}/disk"
        with pushed_to(lot, forced) as place:
            made = cls(place)
            made.call(["borg", "init", "-e", "repokey"])
            yield made

    def backup(self) -> Argv:
        """Return the plain command."""
        # Relative paths are stored, so the home is where it runs.
        return self._at_home(["borg", "create", f"::{self.made}-{{now}}", "."])

    def daily(self) -> Argv:
        """Return the backup, then what its manual does after it."""
        return chain(self.backup(), self._thin(self.place.keep))

    def expire(self) -> Argv:
        """Return the deletion of the oldest archive."""
        return self._thin(self.made - 1)

    @staticmethod
    def _thin(keep: int) -> Argv:
        return chain(["borg", "prune", "--keep-last", str(keep)], ["borg", "compact"])

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return what extracts into a directory on the client."""
        newest = 'cd "$1" && shift && exec borg extract "::$(borg list --short --last 1)" "$@"'
        return ["sh", "-c", newest, "sh", str(to), *([path] if path else [])]

    def recover(self) -> Argv:
        """Return what takes the locks of killed processes away."""
        return ["borg", "break-lock"]

    def _at_home(self, argv: Argv) -> Argv:
        return ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(self.place.client.source), *argv]
