"""Run one program and end it surely: the only place that starts anything.

Programs get an argument list, never a shell, and a process group of their own, so that
ending one ends its children too (rsync starts ssh and a second rsync).  While it runs,
`pulse` is called at least once a second.  The sacred rule: this function does not return,
nor raise, while a process of the group is still alive.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flashback.errors import FlashbackError
from flashback.model import Pulse

# How much of each stream is kept: enough for a screenful of complaints.
KEPT = 8192
# A program that ignores SIGTERM this long, in seconds, gets SIGKILL.
PATIENCE = 10.0


@dataclass(frozen=True)
class Finished:
    """How a program ended: code (negative: a signal), tails of both streams, whether time ran out."""

    code: int
    stdout: str
    stderr: str
    timed_out: bool = False


def no_pulse() -> None:
    """Do nothing; for short commands outside the daemon."""


def run(
    argv: Sequence[str],
    *,
    pulse: Pulse = no_pulse,
    timeout: float = 60.0,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    on_output: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run a program to its end and return how it ended; `on_output` gets its stdout as it comes."""
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    except OSError as error:
        raise FlashbackError(f"`{argv[0]}` cannot be started: {error.strerror}", "Is it installed?") from None
    tails = {"out": "", "err": ""}
    deadline = time.monotonic() + timeout
    try:
        in_time = _listen(child, tails, deadline, pulse, on_output)
    finally:
        _end(child)
    return Finished(child.returncode, tails["out"], tails["err"], timed_out=not in_time)


def _listen(
    child: subprocess.Popen[bytes],
    tails: dict[str, str],
    deadline: float,
    pulse: Pulse,
    on_output: Callable[[str], None] | None,
) -> bool:
    """Read both streams until they close or time runs out; return whether it was in time."""
    with selectors.DefaultSelector() as selector:
        for stream, kind in ((child.stdout, "out"), (child.stderr, "err")):
            assert stream is not None  # noqa: S101 - both are pipes by construction
            os.set_blocking(stream.fileno(), False)
            selector.register(stream.fileno(), selectors.EVENT_READ, kind)
        # A stream may stay open in a stray grandchild: the program's own end counts too.
        while selector.get_map() and not (child.poll() is not None and not selector.select(0)):
            pulse()
            if time.monotonic() > deadline:
                return False
            for key, _ in selector.select(0.5):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                    continue
                text = data.decode("utf-8", "replace")
                tails[key.data] = (tails[key.data] + text)[-KEPT:]
                if on_output and key.data == "out":
                    on_output(text)
        while child.poll() is None:
            pulse()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the group and wait for it."""
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
        if not _alive(child):
            break
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while _alive(child) and time.monotonic() < until:
            time.sleep(0.02)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _alive(child: subprocess.Popen[bytes]) -> bool:
    """Return whether any process of the group still runs; the dead that nobody buried do not count."""
    if child.poll() is None:
        return True
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(_member(entry.name, child.pid) for entry in os.scandir("/proc") if entry.name.isdigit())


def _member(pid: str, group: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123 - cheap on purpose
            # The name in brackets may hold blanks: read what follows it. Fields: state, parent, group.
            state, _, pgrp = stat.read().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(pgrp) == group and state not in "ZX"


def shown(argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> str:
    """Return a command in a form that can be pasted into a shell."""
    words = [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    line = " ".join([*words, shlex.join(argv)])
    return f"cd {shlex.quote(cwd)} && {line}" if cwd else line
