"""What is asked of every program: commands for a backup, an expiry, a restore."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.places import Lot, Place, server

Argv = list[str]


class Tool(ABC):
    """One program with a disk of its own.

    Methods return the command that does it, run as root in the server's control group, or in the client's
    when the program `pushes`; None where the program can not do it.
    """

    name: ClassVar[str]
    how: ClassVar[str]
    """How it is driven, as the report says it."""
    pushes: ClassVar[bool] = False
    history: ClassVar[bool] = True
    """Whether it keeps more than one state, so that one can expire."""
    program: ClassVar[Argv]
    """A call of it that does nothing."""
    package: ClassVar[str] = ""
    """The Debian package that has it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.env: dict[str, str] = {}
        self.made = 0
        """Backups so far."""

    @classmethod
    @contextlib.contextmanager
    def settled(cls, lot: Lot) -> Iterator[Tool]:
        """Yield the program with a new, empty disk, ready for its first backup."""
        with server(lot) as place:
            yield cls(place)

    @classmethod
    def missing(cls) -> str:
        """Return why it can not be measured here, or nothing."""
        return ""

    def call(self, argv: Argv) -> None:
        """Run something of it that is not measured; raise what it said when it fails."""
        done = subprocess.run(
            argv, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"{' '.join(argv)}: {done.stdout.strip()[-300:]}")

    def warm(self) -> Argv:
        """Return what brings its own files into the page cache before it is measured."""
        return self.program

    @abstractmethod
    def backup(self) -> Argv:
        """Return what makes one more backup."""

    def daily(self) -> Argv:
        """Return what makes a backup and lets go of more than `keep`."""
        return self.backup()

    def rest(self) -> Argv | None:
        """Return what it does by itself between two backups, measured apart, if it does anything."""
        return None

    @abstractmethod
    def expire(self) -> Argv | None:
        """Return what deletes the oldest backup and frees its room."""

    @abstractmethod
    def restore(self, to: Path, path: str = "") -> Argv:
        """Return what puts everything, or one path below the home, of the newest backup into `to`."""

    def restored(self, to: Path) -> Path:
        """Return where below `to` the home is after a restore."""
        return to

    def recover(self) -> Argv | None:
        """Return what makes it usable again after a command that failed, if anything is needed."""
        return None


def chain(*commands: Argv) -> Argv:
    """Return a command that runs them one after the other, until one fails."""
    return ["sh", "-c", " && ".join(shlex.join(words) for words in commands)]


def copy(tree: Path, to: Path, path: str) -> Argv:
    """Return how a plain tree is restored by hand."""
    return ["cp", "-a", f"{tree}/{path or '.'}", str(to)]
