"""Run the tools of the workbench so that none outlives the person's patience.

Ansible starts its workers in sessions of their own, so a Ctrl-C at the terminal does not reach the
programs that a module runs.  Everything here therefore watches the program that launched it and,
when that is gone, ends what it has started before it ends itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import WorkbenchError

POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Process:
    """A process that can not be mistaken for a later one with the same number."""

    pid: int
    started: int
    """Clock ticks after the machine's boot, as in /proc/PID/stat."""

    @property
    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        return _stat(self.pid).get("started") == self.started


def _stat(pid: int) -> dict[str, int]:
    """Return parent and start time of a process; nothing when it is gone or a zombie."""
    try:
        # The second field is the program's name in brackets and may hold blanks and brackets itself.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {} if fields[0] == "Z" else {"parent": int(fields[1]), "started": int(fields[19])}


def process(pid: int) -> Process | None:
    """Return the living process with this number."""
    stat = _stat(pid)
    return Process(pid, stat["started"]) if stat else None


def _ancestors() -> Iterator[Process]:
    pid = os.getppid()
    while pid > 1 and (stat := _stat(pid)):
        yield Process(pid, stat["started"])
        pid = stat["parent"]


def launcher() -> Process:
    """Return the run that this process belongs to: the outermost ansible-playbook, or else its parent."""
    ancestors = list(_ancestors())
    for ancestor in reversed(ancestors):
        if b"ansible-playbook" in _command_line(ancestor.pid):
            return ancestor
    return ancestors[0] if ancestors else Process(os.getpid(), _stat(os.getpid())["started"])


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def mentions(pid: int, text: str) -> bool:
    """Tell whether a living process has this text in its command line: a stale pid file fools nobody."""
    return process(pid) is not None and text.encode() in _command_line(pid)


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; return False when it does not within this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def require_tools(*names: str) -> None:
    """Refuse to begin when a program is missing, rather than to fail half-way."""
    missing = [name for name in names if not shutil.which(name, path=search_path())]
    if missing:
        raise WorkbenchError(
            f"The workbench lacks {', '.join(missing)}", "Run `make setup`, which installs what is needed"
        )


def search_path() -> str:
    """Return PATH with the administrator's folders, where mke2fs, sfdisk and sshd live."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Launched:
    """Raises when the run that this process belongs to has ended."""

    def __init__(self) -> None:
        self._launcher = launcher()

    def check(self) -> None:
        """Raise a WorkbenchError when nobody waits for this process any more."""
        if not self._launcher.alive:
            raise WorkbenchError("The run was interrupted", "Start it again: it begins where that is safe")


def run(command: Sequence[str], *, what: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed.

    ``what`` names the step in the error when the program fails.  The program and its children are
    ended when the launcher goes away or this process is interrupted.
    """
    launched = Launched()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": search_path(), "LC_ALL": "C.UTF-8", **(env or {})},
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                launched.check()
                time.sleep(POLL_SECONDS)
        finally:
            end_group(child)
        output.seek(0)
        text = output.read()
    if child.returncode != 0:
        raise WorkbenchError(
            f"{what} failed: {_gist(text)}", f"All that it printed is in {_keep(command, text)}"
        )
    return text


def _keep(command: Sequence[str], text: str) -> Path:
    """Write a failed command and its output where a person can read it, and return the path."""
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"workbench-{Path(command[0]).name}-", suffix=".log", delete=False
    ) as log:
        log.write(f"{shlex.join(command)}\n\n{text}")
    return Path(log.name)


def end_group(child: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a program that was started as the leader of its session, with all that it started."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _gist(text: str) -> str:
    """Return the lines of a program's output that say why it failed, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("E:", "error", "Error", "fatal"))]
    return " / ".join((telling or lines or ["it printed nothing"])[-3:])
