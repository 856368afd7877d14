"""Run one program and end it surely: the only place that starts anything.

Programs get an argument list, never a shell, and a process group of their own, so that
ending one ends its children too (rsync starts ssh and a second rsync).  While it runs,
`pulse` is called at least once a second.  The sacred rule: this function does not return,
nor raise, while a process of the group is still alive.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flashback.errors import FlashbackError
from flashback.model import Pulse

# How much of each stream is kept: enough for a screenful of complaints.
KEPT = 8192
# A program that ignores SIGTERM this long, in seconds, gets SIGKILL.
PATIENCE = 10.0
# How long output that somebody listens to may gather, in seconds.
GATHERING = 0.02


@dataclass(frozen=True)
class Finished:
    """How a program ended: code (negative: a signal), tails of both streams, whether time ran out."""

    code: int
    stdout: str
    stderr: str
    timed_out: bool = False
    stalled: bool = False


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
    stall: float | None = None,
) -> Finished:
    """Run a program to its end and return how it ended; `on_output` gets its stdout as it comes.

    With `stall` it is ended when for so many seconds it printed nothing and no process of its group but
    ssh read or wrote anything.
    """
    child = _start(argv, cwd, env, pass_fds)
    try:
        return _finish(child, _Watch(child.pid, timeout, stall), pulse, on_output)
    finally:
        _end(child)


@contextlib.contextmanager
def beside(
    argv: Sequence[str], *, pulse: Pulse, timeout: float, cwd: str | os.PathLike[str]
) -> Iterator[Callable[[], Finished]]:
    """Let a program run while something else is done; what is yielded waits for it, as `run` does.

    It is ended with the context.
    """
    child = _start(argv, cwd)
    try:
        yield lambda: _finish(child, _Watch(child.pid, timeout, None), pulse)
    finally:
        _end(child)


@contextlib.contextmanager
def kept(argv: Sequence[str], *, cwd: str | os.PathLike[str]) -> Iterator[Callable[[], bool]]:
    """Keep a program while the context lasts; what is yielded tells whether it still runs."""
    child = _start(argv, cwd)
    try:
        yield lambda: child.poll() is None
    finally:
        _end(child)


def _start(
    argv: Sequence[str],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
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


def _finish(
    child: subprocess.Popen[bytes],
    watch: _Watch,
    pulse: Pulse,
    on_output: Callable[[str], None] | None = None,
) -> Finished:
    tails = {"out": "", "err": ""}
    _listen(child, tails, watch, pulse, on_output)
    _end(child)
    return Finished(
        child.returncode, tails["out"], tails["err"], timed_out=watch.timed_out, stalled=watch.stalled
    )


def pipeline(
    commands: Sequence[Sequence[str]],
    output: Path,
    *,
    pulse: Pulse = no_pulse,
    timeout: float = 60.0,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    stall: float | None = None,
) -> list[Finished]:
    """Run programs that feed one another, the last one into a file, and return how each ended.

    `stall` watches the first one. Whatever happens, none of them is left running.
    """
    whole = {**os.environ, "LC_ALL": "C", **(env or {})}
    children: list[subprocess.Popen[bytes]] = []
    complaints = [_nameless(output, number) for number in range(len(commands))]
    try:
        with output.open("wb") as file:
            for number, argv in enumerate(commands):
                last = number == len(commands) - 1
                children.append(
                    subprocess.Popen(
                        list(argv),
                        stdin=children[-1].stdout if children else subprocess.DEVNULL,
                        stdout=file if last else subprocess.PIPE,
                        stderr=complaints[number],
                        cwd=cwd,
                        env=whole,
                        start_new_session=True,
                    )
                )
        for child in children[:-1]:
            # Only the next program holds the pipe now, so that each notices the end of the other.
            assert child.stdout is not None  # noqa: S101 - a pipe by construction
            child.stdout.close()
        watch = _Watch(children[0].pid, timeout, stall)
        while any(child.poll() is None for child in children) and not watch.over():
            pulse()
            with contextlib.suppress(subprocess.TimeoutExpired):
                next(child for child in children if child.returncode is None).wait(0.5)
    except OSError as error:
        raise FlashbackError(f"`{argv[0]}` cannot be started: {error.strerror}", "Is it installed?") from None
    finally:
        for child in children:
            _end(child)
    return [
        Finished(child.returncode, "", _tail(said), timed_out=watch.timed_out, stalled=watch.stalled)
        for child, said in zip(children, complaints, strict=True)
    ]


def _nameless(beside: Path, number: int) -> IO[bytes]:
    """Return an open file without a name; the module `tempfile` would cost the daemon 5 MB."""
    place = beside.with_name(f"{beside.name}.said{number}")
    stream = place.open("w+b")
    place.unlink()
    return stream


def _tail(stream: IO[bytes]) -> str:
    with stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - KEPT))
        return stream.read().decode("utf-8", "replace")


def tied(argv: Sequence[str]) -> list[str]:
    """Return a command that is told to end when the thread that started it ends, however it does."""
    return ["setpriv", "--pdeathsig", "TERM", "--", *argv]


class _Watch:
    """Knows when a program has had enough time, or does nothing any more."""

    # Seconds between two looks at what the processes have read and written.
    LOOK = 5.0

    def __init__(self, group: int, timeout: float, stall: float | None) -> None:
        self._group = group
        self._deadline = time.monotonic() + timeout
        self._stall = stall
        self._moved = self._looked = time.monotonic()
        self._volume = -1
        self.timed_out = False
        self.stalled = False

    def alive(self) -> None:
        """Take notice of a sign of life."""
        self._moved = time.monotonic()

    def over(self) -> bool:
        """Return whether the program is to be ended."""
        now = time.monotonic()
        self.timed_out = now > self._deadline
        if self._stall is not None and now - self._looked >= min(self.LOOK, self._stall / 2):
            self._looked = now
            volume = _volume(self._group)
            if volume != self._volume:
                self._volume, self._moved = volume, now
            self.stalled = now - self._moved > self._stall
        return self.timed_out or self.stalled


def _volume(group: int) -> int:
    """Return the bytes that a group has read and written, without ssh, which talks even when rsync hangs."""
    total = 0
    for name in _processes():
        if not _member(name, group):
            continue
        try:
            with open(f"/proc/{name}/comm", encoding="utf-8") as comm:  # noqa: PTH123 - cheap on purpose
                if comm.read().strip() == "ssh":
                    continue
            with open(f"/proc/{name}/io", encoding="ascii") as figures:  # noqa: PTH123 - as above
                total += sum(int(line.split()[1]) for line in figures if line.startswith(("rchar", "wchar")))
        except (OSError, ValueError):
            continue
    return total


def _listen(
    child: subprocess.Popen[bytes],
    tails: dict[str, str],
    watch: _Watch,
    pulse: Pulse,
    on_output: Callable[[str], None] | None,
) -> None:
    """Read both streams until they close or the watch says that it is enough."""
    with selectors.DefaultSelector() as selector:
        for stream, kind in ((child.stdout, "out"), (child.stderr, "err")):
            assert stream is not None  # noqa: S101 - both are pipes by construction
            os.set_blocking(stream.fileno(), False)
            selector.register(stream.fileno(), selectors.EVENT_READ, kind)
        # A stream may stay open in a stray grandchild: the program's own end counts too.
        while selector.get_map() and not (child.poll() is not None and not selector.select(0)):
            pulse()
            if watch.over():
                return
            ready = selector.select(0.5)
            if on_output and ready:
                # rsync tells its progress thousands of times a second: several at once cost less.
                time.sleep(GATHERING)
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                    continue
                watch.alive()
                text = data.decode("utf-8", "replace")
                tails[key.data] = (tails[key.data] + text)[-KEPT:]
                if on_output and key.data == "out":
                    on_output(text)
        while child.poll() is None:
            pulse()
            if watch.over():
                return
            time.sleep(0.05)


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
    return any(_member(name, child.pid) for name in _processes())


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names are what is wanted


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
