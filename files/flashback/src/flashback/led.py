"""Show the engine's state on a green and a red LED (both on is yellow).

Reads the status document and nothing else.  What to show is a pure function of it; the
rest writes `brightness` files.  The sacred rule: at the end every LED is given back as it
was found.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashback import clock, status
from flashback.model import JobState, ServerState


@dataclass(frozen=True)
class Step:
    """Green on, red on, for that many seconds."""

    green: bool
    red: bool
    seconds: float


def _green(seconds: float) -> Step:
    return Step(True, False, seconds)


def _red(seconds: float) -> Step:
    return Step(False, True, seconds)


def _yellow(seconds: float) -> Step:
    return Step(True, True, seconds)


def _off(seconds: float) -> Step:
    return Step(False, False, seconds)


# The signs of 2014, which owners know by heart.
STEADY: dict[ServerState, tuple[Step, ...]] = {
    ServerState.DOWN: (_red(2.0), _off(1.0)),
    ServerState.PRESTART: (_yellow(2.0), _off(1.0)),
    ServerState.BACKING_UP: (_yellow(1.25), _green(0.5)),
    ServerState.ROTATING: (_green(1.25), _yellow(0.5)),
    ServerState.CLEANING: (_green(1.25), _yellow(0.5)),
}


def pattern(state: ServerState, minutes: int, succeeded: bool, trouble: bool) -> tuple[Step, ...]:
    """Return one round of the sign; empty means that the LEDs keep what they show."""
    if state is not ServerState.IDLE:
        return STEADY.get(state, ())
    steps: list[Step] = []
    if succeeded:
        steps += [_yellow(0.3), _off(0.6)]
    if trouble:
        steps += [_red(0.3), _off(0.6)]
    steps += [_green(0.3), _off(0.3)] * minutes
    return (*steps, _off(1.0))


@dataclass(frozen=True)
class Sight:
    """What a document says to the LEDs."""

    state: ServerState
    minutes: int = 0
    succeeded: bool = False
    trouble: bool = False
    reason: str = ""

    def words(self) -> str:
        """Return the sign in words."""
        if self.state is ServerState.IDLE:
            colours = [name for name, on in (("yellow", self.succeeded), ("red", self.trouble)) if on]
            return f"{', '.join([*colours, 'green'])}: sleeping, {self.minutes} min to the next pass"
        return {
            ServerState.DOWN: "red: the engine does not run",
            ServerState.PRESTART: "yellow: not yet started",
            ServerState.BACKING_UP: "yellow and green: backing up",
            ServerState.ROTATING: "green and yellow: keeping the new snapshot, deleting old ones",
            ServerState.CLEANING: "green and yellow: cleaning up",
            ServerState.PREPARING: "as before: preparing" + (f", {self.reason}" if self.reason else ""),
        }[self.state]


def sight(made: dict[str, Any] | None) -> Sight:
    """Return what a document, or the lack of one, says to the LEDs."""
    now = clock.now()
    health = status.health(made, now, status.pid_alive)
    if made is None or not health.running:
        return Sight(ServerState.DOWN)
    states = {job["state"] for job in made["jobs"]}
    return Sight(
        state=ServerState(made["engine"]["state"]),
        minutes=status.minutes_left(made, now),
        succeeded=JobState.SUCCEEDED.value in states,
        trouble=JobState.FAILED.value in states or not made["disk"]["present"],
        reason=made["engine"]["reason"],
    )


@dataclass
class Leds:
    """The two LEDs below a directory, each found by a glob; either may be missing."""

    root: Path
    green: str | None
    red: str | None
    _former: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def find(self, glob: str | None) -> Path | None:
        """Return the first LED that a glob matches."""
        return next(iter(sorted(self.root.glob(glob))), None) if glob else None

    def take(self) -> list[str]:
        """Remember how both are, free them from the kernel's triggers; return what is missing, in words."""
        missing = []
        for name, glob in (("green", self.green), ("red", self.red)):
            led = self.find(glob)
            if led is None:
                missing.append(f"no {name} LED matches {glob}" if glob else f"no {name} LED is configured")
            elif led not in self._former:
                self._former[led] = (_chosen(_read(led / "trigger")), _read(led / "brightness"))
                _put(led / "trigger", "none")
        return missing

    def light(self, green: bool, red: bool) -> None:
        """Switch both."""
        for glob, on in ((self.green, green), (self.red, red)):
            led = self.find(glob)
            if led is not None:
                _put(led / "brightness", (_read(led / "max_brightness") or "1") if on else "0")

    def restore(self) -> None:
        """Give both back as they were found."""
        for led, (trigger, brightness) in self._former.items():
            _put(led / "brightness", brightness or "0")
            if trigger:
                _put(led / "trigger", trigger)

    def brightness(self) -> str:
        """Return the present brightness of both in words."""
        parts = []
        for name, glob in (("green", self.green), ("red", self.red)):
            led = self.find(glob)
            parts.append(f"{name} {_read(led / 'brightness') if led else 'missing'}")
        return ", ".join(parts)


def show(run_dir: Path, leds: Leds) -> str:
    """Return one line: what is shown now and how bright both LEDs are."""
    return f"{sight(status.read(run_dir)).words()} (brightness: {leds.brightness()})"


def run(run_dir: Path, leds: Leds) -> int:
    """Show the state until SIGTERM; return the exit status."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    for line in leds.take():
        print(f"flashback led: {line}; it stays dark", file=sys.stderr, flush=True)
    if "NOTIFY_SOCKET" in os.environ:
        import sdnotify  # noqa: PLC0415 - not needed outside systemd

        sdnotify.SystemdNotifier().notify("READY=1")
    try:
        while not stopping:
            seen = sight(status.read(run_dir))
            steps = pattern(seen.state, seen.minutes, seen.succeeded, seen.trouble)
            for step in steps:
                leds.light(step.green, step.red)
                if _nap(step.seconds, stopping):
                    break
            if not steps:
                _nap(1.0, stopping)
    finally:
        leds.restore()
    return 0


def _nap(seconds: float, stopping: list[int]) -> bool:
    """Sleep; return whether it is time to stop."""
    until = time.monotonic() + seconds
    while not stopping and (left := until - time.monotonic()) > 0:
        # A signal does not end a sleep by itself.
        time.sleep(min(left, 0.25))
    return bool(stopping)


def _chosen(triggers: str) -> str:
    """Return the active one of `none [timer] heartbeat`."""
    return triggers.partition("[")[2].partition("]")[0]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _put(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        # An LED can vanish (a keyboard unplugged): the other one goes on.
        print(f"flashback led: {path}: {error.strerror}", file=sys.stderr, flush=True)
