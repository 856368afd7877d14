"""rdiff-backup: a mirror of the newest state, and reverse differences for all before."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.places import HOST, Place
from bench.tools.base import Argv, Tool, chain


class RdiffBackup(Tool):
    """Pulls through its own server process on the client, which may read only."""

    name = "rdiff-backup"
    how = "`rdiff-backup backup` from `rdiff-backup server --restrict-mode read-only` on the client"
    program: ClassVar[Argv] = ["rdiff-backup", "--version"]
    package = "rdiff-backup"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        source = place.client.source
        config = place.client.admit(
            place.folder, f"rdiff-backup server --restrict-path {source} --restrict-mode read-only"
        )
        self._remote = ["--remote-schema", f"ssh -F {config} {{h}} rdiff-backup server"]
        self._home = f"{HOST}::{source}"
        self._store = f"{place.disk}/rdiff"

    def backup(self) -> Argv:
        """Return the plain command."""
        return ["rdiff-backup", *self._remote, "backup", self._home, self._store]

    def daily(self) -> Argv:
        """Return the backup and the removal of older increments."""
        return chain(self.backup(), self._thin(self.place.keep))

    def expire(self) -> Argv:
        """Return the removal of the oldest increments: two, since nothing changed between the first two."""
        return self._thin(self.made - 2)

    def _thin(self, keep: int) -> Argv:
        # 0B is the newest, so this is the oldest that stays. Exit status 2: there was nothing to remove.
        remove = [
            "rdiff-backup",
            "--force",
            "remove",
            "increments",
            "--older-than",
            f"{keep - 1}B",
            self._store,
        ]
        return ["sh", "-c", '"$@" || [ $? -eq 2 ]', "sh", *remove]

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return its own restore."""
        return ["rdiff-backup", "restore", f"{self._store}/{path}".rstrip("/"), f"{to}/back"]

    def restored(self, to: Path) -> Path:
        """Return the directory that it makes."""
        return to / "back"

    def recover(self) -> Argv:
        """Return what takes a broken backup back."""
        return ["rdiff-backup", "regress", self._store]
