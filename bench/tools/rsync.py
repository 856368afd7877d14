"""rsync alone: the mirror that keeps no history, and the 2014 flashback's own command."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.places import HOST, Place
from bench.tools.base import Argv, Tool, chain, copy

# rrsync's directory is the home.
SOURCE = f"{HOST}:/"


class Mirror(Tool):
    """One directory that is made equal to the source: the lower bound for rsync's way of working."""

    name = "rsync-mirror"
    how = "`rsync -aHAX --numeric-ids --delete` into one directory; keeps no history"
    history = False
    program: ClassVar[Argv] = ["rsync", "--version"]
    package = "rsync"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._ssh = f"ssh -F {place.client.rig.top}/ssh_config"

    def backup(self) -> Argv:
        """Return the plain command."""
        target = f"{self.place.disk}/mirror/"
        return ["rsync", "-aHAX", "--numeric-ids", "--delete", "-e", self._ssh, SOURCE, target]

    def expire(self) -> None:
        """Return nothing: there is no history."""

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return a copy by hand."""
        return copy(self.place.disk / "mirror", to, path)


class LinkDest(Tool):
    """The 2014 flashback: daily.0 is filled, linked with daily.1, then all numbers move on by one."""

    name = "link-dest-2014"
    how = "the 2014 engine's `rsync -al -E --link-dest` and its deletion; keeps no hard links"
    program: ClassVar[Argv] = ["rsync", "--version"]
    package = "rsync"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._ssh = f"ssh -F {place.client.rig.top}/ssh_config -o PasswordAuthentication=no"

    def backup(self) -> Argv:
        """Return its rsync call and the moves."""
        top = self.place.disk
        link = [f"--link-dest={top}/daily.1"] if self.made else []
        fill = [
            "rsync", "-al", "-E", "-e", self._ssh, "--delete", "--delete-excluded", "--numeric-ids",
            "--one-file-system", *link, SOURCE, f"{top}/daily.0/",
        ]  # fmt: skip
        moves = [["mv", f"{top}/daily.{n}", f"{top}/daily.{n + 1}"] for n in range(self._trees, -1, -1)]
        return chain(fill, *moves)

    def daily(self) -> Argv:
        """Return the backup and the deletion of the oldest when there are too many."""
        return (
            chain(self.backup(), self._delete(self._trees + 1))
            if self.made >= self.place.keep
            else self.backup()
        )

    def expire(self) -> Argv:
        """Return the deletion of the oldest."""
        return self._delete(self._trees)

    @property
    def _trees(self) -> int:
        """Return how many there are, numbered from 1."""
        return min(self.made, self.place.keep)

    def _delete(self, number: int) -> Argv:
        """Return how it deletes: rsync from an empty directory."""
        empty, oldest = f"{self.place.disk}/empty", f"{self.place.disk}/daily.{number}"
        return chain(
            ["mkdir", empty], ["rsync", "-a", "--delete", f"{empty}/", f"{oldest}/"], ["rmdir", empty, oldest]
        )

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return a copy by hand."""
        return copy(self.place.disk / "daily.1", to, path)
