"""restic: chunks, compressed and encrypted on the client, kept as files by a plain sftp server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.places import HOST, Lot, Place, pushed_to
from bench.tools.base import Argv, Tool, chain

# internal-sftp would want a line in sshd's settings.
SERVER = "/usr/lib/openssh/sftp-server"


class Restic(Tool):
    """Runs on the client and pushes."""

    name = "restic"
    how = "`restic backup` on the client into sftp, then `forget --prune`"
    pushes = True
    program: ClassVar[Argv] = ["restic", "version"]
    package = "restic"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.env = {
            "RESTIC_PASSWORD": "correct horse",
            "RESTIC_REPOSITORY": f"sftp:{HOST}:{place.disk}/restic",
            "RESTIC_CACHE_DIR": str(place.folder / "cache"),
        }
        # The option has no variable: restic's own words about it are `-o sftp.command`.
        self._restic = ["restic", "-o", f"sftp.command=ssh -F {place.folder}/ssh_config {HOST} sftp"]

    @classmethod
    @contextlib.contextmanager
    def settled(cls, lot: Lot) -> Iterator[Tool]:
        """Yield it with a new repository."""
        with pushed_to(lot, SERVER) as place:
            made = cls(place)
            made.call([*made._restic, "init"])
            yield made

    def backup(self) -> Argv:
        """Return the plain command."""
        return [*self._restic, "backup", "--quiet", str(self.place.client.source)]

    def daily(self) -> Argv:
        """Return the backup, then what its manual does after it."""
        return chain(self.backup(), self._thin(self.place.keep))

    def expire(self) -> Argv:
        """Return the deletion of the oldest snapshot."""
        return self._thin(self.made - 1)

    def _thin(self, keep: int) -> Argv:
        return [*self._restic, "forget", "--quiet", "--keep-last", str(keep), "--prune"]

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return what restores into a directory on the client."""
        only = ["--include", f"{self.place.client.source}/{path}"] if path else []
        return [*self._restic, "restore", "latest", "--target", str(to), *only]

    def restored(self, to: Path) -> Path:
        """Return the home: restic makes the whole path again."""
        return to / str(self.place.client.source).lstrip("/")

    def recover(self) -> Argv:
        """Return what takes the locks of killed processes away."""
        return [*self._restic, "unlock"]
