"""Control groups, version 1 or 2: what a side's processes spend, and how much memory they may have."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from limits import GROUPS, anonymous

UNLIMITED = {"memory.max": "max", "memory.limit_in_bytes": "-1"}
# Moves the shell into each group named before `--`, then becomes the command after it.
ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'


class Group:
    """The processes of one side of one program."""

    def __init__(self, name: str) -> None:
        self._second = (GROUPS / "cgroup.controllers").exists()
        tops = [GROUPS] if self._second else [GROUPS / "cpuacct", GROUPS / "memory"]
        self._folders = [top / name for top in tops]
        for folder in self._folders:
            folder.mkdir()

    def within(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` in this group."""
        return ["sh", "-c", ENTER, "sh", *map(str, self._folders), "--", *argv]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in this group: what is started meanwhile stays in it."""
        tops = [folder.parent for folder in self._folders]
        homes = [top / _own(top.name, self._second).lstrip("/") for top in tops]
        try:
            self._move(os.getpid(), self._folders)
            yield
        finally:
            self._move(os.getpid(), homes)

    @staticmethod
    def _move(pid: int, folders: Sequence[Path]) -> None:
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def limit(self, size: int | None) -> None:
        """Allow the group so many bytes, page cache included, or any number."""
        name = "memory.max" if self._second else "memory.limit_in_bytes"
        (self._folders[-1] / name).write_text(UNLIMITED[name] if size is None else str(size))

    def cpu(self) -> float:
        """Return the seconds that its processes have spent, the ended ones included."""
        if self._second:
            lines = (self._folders[0] / "cpu.stat").read_text().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("usage_usec"))) / 1e6
        return int((self._folders[0] / "cpuacct.usage").read_text()) / 1e9

    def anonymous(self) -> int:
        """Return the bytes that are not page cache."""
        return anonymous(self._folders[-1])

    def pids(self) -> list[int]:
        """Return its processes."""
        return [int(line) for line in (self._folders[0] / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """End what is left in the group and take it away; processes that are just ending are waited for."""
        deadline = time.monotonic() + 10
        while (left := self.pids()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for folder in self._folders:
            folder.rmdir()


@contextlib.contextmanager
def group(name: str) -> Iterator[Group]:
    """Make a group of that name for a while."""
    made = Group(f"backup-bench-{os.getpid()}-{name}")
    try:
        yield made
    finally:
        made.remove()


def _own(controller: str, second: bool) -> str:
    """Return where this process is below a controller's top."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if (second and not names) or controller in names.split(","):
            return path
    return "/"
