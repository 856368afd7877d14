"""Run one command and say what it cost: time, processor, memory, wire, disk.

The same method for every program.  The processor's time comes from the control groups of both sides;
who spent it within the server's side, and the memory, from looking at its processes twenty times a second.
Bytes on the wire come from a counter of the packet filter at the port of the sshd, reads and writes from
the block device, growth from the file system, both after everything is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.groups import Group

INTERVAL = 0.05
SECTOR = 512
TICK = os.sysconf("SC_CLK_TCK")
# No command takes longer, in seconds.
TIMEOUT = 4 * 3600.0
# How many characters of what a failed command said are kept.
KEPT = 600


@dataclass
class Figures:
    """What one command cost; seconds and bytes."""

    exit: int = 0
    said: str = ""
    """The end of what it printed."""
    wall_s: float = 0.0
    """Until everything is on the disk."""
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    cpu_by_program_s: dict[str, float] = field(default_factory=dict)
    """Of the server's side; `unseen` is what lived too shortly to be looked at."""
    peak_anonymous: int = 0
    """Of the server's side together, without page cache."""
    peak_rss: int = 0
    """Sum of the resident sizes on the server's side; shared pages count in each process."""
    peak_by_program: dict[str, int] = field(default_factory=dict)
    """Largest resident size of one process of each name on the server's side."""
    wire_from_client: int = 0
    wire_to_client: int = 0
    disk_reads: int = 0
    disk_read: int = 0
    disk_writes: int = 0
    disk_written: int = 0
    growth: int = 0
    inodes: int = 0


class Wire:
    """Counts the bytes of both directions at ports of the loopback, packet headers included."""

    def __init__(self) -> None:
        self._chain = f"bench-{os.getpid()}"

    @contextlib.contextmanager
    def watching(self) -> Iterator[Wire]:
        """Put the counters into the packet filter for a while; they let everything pass."""
        _iptables("-N", self._chain)
        try:
            _iptables("-I", "OUTPUT", "-o", "lo", "-p", "tcp", "-j", self._chain)
            yield self
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                _iptables("-D", "OUTPUT", "-o", "lo", "-p", "tcp", "-j", self._chain)
            _iptables("-F", self._chain)
            _iptables("-X", self._chain)

    def watch(self, port: int) -> None:
        """Count at this port too."""
        for side in ("--sport", "--dport"):
            _iptables("-A", self._chain, "-p", "tcp", side, str(port))

    def read(self, port: int) -> tuple[int, int]:
        """Return the bytes sent from and to that port so far."""
        found = {"spt": 0, "dpt": 0}
        for line in _iptables("-nvxL", self._chain).splitlines():
            rule = re.search(rf"^\s*\d+\s+(\d+)\s.*\b(spt|dpt):{port}\b", line)
            if rule:
                found[rule[2]] = int(rule[1])
        return found["spt"], found["dpt"]


def _iptables(*words: str) -> str:
    return subprocess.run(["iptables", "-w", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


class Disk:
    """A mounted loop image."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        device, self.kind = next((words[0], words[2]) for words in lines if words[1] == str(mount))
        self._stat = Path("/sys/block") / Path(device).name / "stat"

    def counters(self) -> tuple[int, int, int, int]:
        """Return reads, bytes read, writes and bytes written since the image was mounted."""
        reads, _, read, _, writes, _, written = map(int, self._stat.read_text().split()[:7])
        return reads, read * SECTOR, writes, written * SECTOR

    def used(self) -> tuple[int, int]:
        """Return the bytes and inodes in use."""
        status = os.statvfs(self.mount)
        return (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_files - status.f_ffree

    def sync(self) -> None:
        """Write everything to the disk."""
        subprocess.run(["sync", "-f", str(self.mount)], check=True)

    def settle(self) -> None:
        """Wait for what the file system does later: btrfs deletes subvolumes in the background."""
        if self.kind == "btrfs":
            subprocess.run(
                ["btrfs", "subvolume", "sync", str(self.mount)], check=True, stdout=subprocess.DEVNULL
            )
        self.sync()

    def trim(self) -> None:
        """Give the room of what was deleted back to the machine that holds the image."""
        subprocess.run(["fstrim", str(self.mount)], check=True)


@dataclass(frozen=True)
class Bench:
    """What is watched while a program's commands run."""

    server: Group
    client: Group
    disk: Disk
    wire: Wire
    port: int

    def run(self, argv: Sequence[str], env: Mapping[str, str], *, at_client: bool) -> Figures:
        """Run a command on one of the sides to its end and return what it cost."""
        found = Figures()
        watcher = Watcher(self.server)
        disk, used, wire = self.disk.counters(), self.disk.used(), self.wire.read(self.port)
        server, client = self.server.cpu(), self.client.cpu()
        begun = time.monotonic()
        side = self.client if at_client else self.server
        found.exit, found.said = _run(side.within(argv), env, watcher)
        self.disk.sync()
        found.wall_s = time.monotonic() - begun
        found.server_cpu_s, found.client_cpu_s = self.server.cpu() - server, self.client.cpu() - client
        watcher.tell(found)
        self.disk.settle()
        gone = [after - before for after, before in zip(self.disk.counters(), disk, strict=True)]
        found.disk_reads, found.disk_read, found.disk_writes, found.disk_written = gone
        found.growth, found.inodes = (a - b for a, b in zip(self.disk.used(), used, strict=True))
        sent = [after - before for after, before in zip(self.wire.read(self.port), wire, strict=True)]
        # A program that pulls talks to the client's sshd, one that pushes to the server's.
        found.wire_to_client, found.wire_from_client = sent if at_client else sent[::-1]
        return found


def _run(argv: Sequence[str], env: Mapping[str, str], watcher: Watcher) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            argv, env={**os.environ, **env}, cwd="/", stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            _watch(child.pid, watcher)
        finally:
            # A command that ended in time is a zombie still, so its number is nobody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - 4 * KEPT))
        return code, output.read().decode(errors="replace")[-KEPT:].strip()


def _watch(pid: int, watcher: Watcher) -> None:
    """Look at the processes until the command has ended, and once more before it is gone from the list."""
    deadline = time.monotonic() + TIMEOUT
    over = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, pid, over) is None and time.monotonic() < deadline:
        watcher.look()
        time.sleep(INTERVAL)
    watcher.look(pid)


class Watcher:
    """Sees how much each process of a group has spent and how large it was."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._spent: dict[tuple[int, str], tuple[str, float]] = {}
        self._largest: dict[str, int] = {}
        self._anonymous = self._rss = 0
        self._begun = group.cpu()
        self.look()
        # What was there before, such as a daemon, has spent that already.
        self._before = {key: seconds for key, (_, seconds) in self._spent.items()}

    def look(self, *more: int) -> None:
        """Look at all processes of the group now, and at those that have left it by ending."""
        self._anonymous = max(self._anonymous, self._group.anonymous())
        together = 0
        for pid in {*self._group.pids(), *(pid for pid in more if any(key[0] == pid for key in self._spent))}:
            with contextlib.suppress(OSError):
                together += self._look_at(pid)
        self._rss = max(self._rss, together)

    def _look_at(self, pid: int) -> int:
        """Note what a process has spent, return its resident size."""
        head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        words, name = rest.split(), head.partition("(")[2]
        self._spent[pid, words[19]] = (name, (int(words[11]) + int(words[12])) / TICK)
        sizes = dict(
            re.findall(r"^Vm(HWM|RSS):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        )
        self._largest[name] = max(self._largest.get(name, 0), int(sizes.get("HWM", 0)) << 10)
        return int(sizes.get("RSS", 0)) << 10

    def tell(self, found: Figures) -> None:
        """Write down what was seen."""
        found.peak_anonymous, found.peak_rss = self._anonymous, self._rss
        found.peak_by_program = dict(sorted(self._largest.items()))
        by: dict[str, float] = {}
        for key, (name, seconds) in self._spent.items():
            by[name] = by.get(name, 0.0) + seconds - self._before.get(key, 0.0)
        by["unseen"] = max(0.0, self._group.cpu() - self._begun - sum(by.values()))
        found.cpu_by_program_s = {
            name: round(seconds, 3) for name, seconds in sorted(by.items()) if seconds >= 0.005
        }
