"""This project's engine, in both of its ways to find what changed.

A plug's daemon is resident. So a resident process is asked for each backup: Python's start is no part of it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from flashback import config
from flashback.errors import FlashbackError
from rig import CLI, Rig

from bench.places import Lot, Place, server
from bench.tools.base import Argv, Tool


class Full(Tool):
    """The engine with rsync looking at every file of the newest snapshot."""

    name = "flashback-full"
    how = "the daemon's pass, `detect: full`: rsync compares with the newest snapshot"
    program: ClassVar[Argv] = [*CLI, "--help"]
    detect = "full"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._rig = Rig(place.folder, place.client.rig.port)
        for name in ("id", "known_hosts"):
            (place.folder / name).symlink_to(place.client.rig.top / name)
        settings = f"{{period: 1d, keep: {place.keep}, detect: {self.detect}}}"
        # A night's share of reading again, and drills, would fall into the work of some backup.
        rare = "verify: {at: '23:59', drill_every: 3650d}\n"
        self._rig.configure(settings if knows_detect() else f"{{period: 1d, keep: {place.keep}}}", rare)
        self._flashback = [*CLI, "-c", str(self._rig.config)]

    @classmethod
    @contextlib.contextmanager
    def settled(cls, lot: Lot) -> Iterator[Tool]:
        """Yield it with a new disk and its resident process."""
        with server(lot) as place:
            made = cls(place)
            with (lot.folder / "resident.log").open("wb") as said:
                resident = subprocess.Popen(
                    place.bench.server.within(made.resident()),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
                try:
                    made.wait_for_resident()
                    yield made
                finally:
                    resident.terminate()
                    resident.wait()

    @property
    def _socket(self) -> Path:
        return self.place.folder / "socket"

    def resident(self) -> Argv:
        """Return what stays in memory."""
        script = Path(__file__).with_name("resident.py")
        return [sys.executable, str(script), str(self._rig.config), str(self._socket)]

    def wait_for_resident(self) -> None:
        """Return when it listens."""
        deadline = time.monotonic() + 30
        while not self._socket.exists():
            if time.monotonic() > deadline:
                raise OSError(f"it does not begin: {(self.place.folder / 'resident.log').read_text()[-300:]}")
            time.sleep(0.1)

    def warm(self) -> Argv:
        """Return a look at what is due: the daemon that would do the work is in memory always."""
        return [*self._flashback, "pass", "--dry-run"]

    def backup(self) -> Argv:
        """Return what asks for a pass."""
        return [sys.executable, "-I", "-S", str(Path(__file__).with_name("ask.py")), str(self._socket)]

    def rest(self) -> Argv:
        """Return what the daemon starts after a backup: checksums, what makes the next one quick."""
        return ["nice", "-n", "19", "ionice", "-c", "3", *self._flashback, "chores"]

    def expire(self) -> Argv:
        """Return what asks the store for it, as the engine does after a backup."""
        return [sys.executable, str(Path(__file__).with_name("expire_oldest.py")), str(self._rig.config)]

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return the engine's own restore."""
        return [
            *self._flashback,
            "restore",
            "laptop/home",
            *([path] if path else []),
            "--to",
            str(to / "back"),
        ]

    def restored(self, to: Path) -> Path:
        """Return the directory that the engine makes."""
        return to / "back"


class Manifest(Full):
    """The engine with a listing of the newest snapshot, which spares it the look at the disk."""

    name = "flashback-manifest"
    how = "the daemon's pass, `detect: manifest`: the source's listing is compared with the stored one"
    detect = "manifest"

    @classmethod
    def missing(cls) -> str:
        """Return that the engine is too old."""
        return "" if knows_detect() else "this engine has no setting `detect`"


def knows_detect() -> bool:
    """Return whether the engine has the setting `detect`."""
    text = "data_dir: /x\nhosts: {h: {volumes: {v: {source: /, jobs: {l: {detect: full}}}}}}\n"
    try:
        config.parse(text, Path("bench.yml"))
    except FlashbackError:
        return False
    return True
