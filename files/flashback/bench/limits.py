"""Measure what the engine promises about itself: memory, idle work, and what it costs beside plain rsync.

    python files/flashback/bench/limits.py [--files 100000] [--many 1000000] [--rounds 3] [--fs xfs]

Run as root: the backup disk is a loop image and the memory limit a control group.  The client is a real
sshd with a forced `rrsync -ro`, on loopback and outside the limit.  The table is printed with the machine
that it comes from; only the ratios of one run mean something on another machine.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from flashback import actions, clock, config  # noqa: E402 - as below
from flashback.model import JobState  # noqa: E402
from flashback.status import Board  # noqa: E402
from rig import CLI, Rig, running, until  # noqa: E402 - the tests' rig, found through the line above

LIMIT = 128 << 20
OLD = 1_600_000_000
GROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--files", type=int, default=100_000, help="files for the overhead")
    options.add_argument("--many", type=int, default=1_000_000, help="files inside the memory limit")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--fs", default="xfs", choices=["ext4", "xfs", "btrfs"])
    given = options.parse_args()
    print(f"machine: {describe_machine()}, {given.fs} on a loop image")
    with (
        tempfile.TemporaryDirectory(prefix="flashback-limits-") as top,
        running(Path(top)) as rig,
        mounted(rig, given.fs),
    ):
        for name, value, limit in measurements(rig, given):
            print(f"{name:58} {value:>22}   {limit}", flush=True)


def measurements(rig: Rig, given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    idle, cpu = idle_daemon(rig)
    yield "resident memory of the sleeping daemon", f"{idle / 1e6:.1f} MB", "at most 20 MB"
    yield "CPU of a pass with nothing due", f"{cpu * 1000:.0f} ms", "at most 50 ms"
    fill(rig, given.files)
    for name, ratios, seconds in overhead(rig, given.rounds):
        value = f"{(statistics.median(ratios) - 1) * 100:+.1f} % ({min(ratios):.3f}-{max(ratios):.3f})"
        yield f"{name}, {given.files} files, rsync alone {seconds:.1f} s", value, "at most +3 %"
    fill(rig, given.many)
    peak, seconds = within_limit(rig)
    yield (
        f"{given.many} files, first backup inside 128 MB, {seconds:.0f} s",
        f"peak {peak / 1e6:.1f} MB",
        "completes",
    )
    peak, seconds = within_limit(rig)
    yield (
        f"{given.many} files, nothing changed, inside 128 MB, {seconds:.0f} s",
        f"peak {peak / 1e6:.1f} MB",
        "completes",
    )


def describe_machine() -> str:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    rsync = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout.split()[
        2
    ]
    system = f"Linux {platform.release()}, Python {platform.python_version()}, rsync {rsync}"
    return f"{cpu}, {os.cpu_count()} cores, {system}"


@contextlib.contextmanager
def mounted(rig: Rig, kind: str) -> Iterator[None]:
    """Put a real file system under the rig's disk."""
    image = rig.top / "disk.img"
    with image.open("wb") as file:
        file.truncate(20 << 30)
    quiet = {"ext4": ["-q", "-N", "5000000"], "xfs": ["-q"], "btrfs": ["-q"]}[kind]
    subprocess.run([f"mkfs.{kind}", *quiet, str(image)], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", str(image), str(rig.disk)], check=True)
    try:
        (rig.disk / ".flashback").mkdir()
        (rig.disk / ".flashback/id").write_text("token\n")
        yield
    finally:
        subprocess.run(["umount", str(rig.disk)], check=True)


def fill(rig: Rig, count: int) -> None:
    """Give the client so many files, small ones, a thousand in a folder."""
    subprocess.run(["rm", "-rf", *map(str, rig.source.iterdir())], check=True)
    for number in range(count):
        folder = rig.source / f"{number // 1000:04}"
        if number % 1000 == 0:
            folder.mkdir()
        file = folder / f"file-{number}"
        file.write_bytes(b"x" * (number % 2000) if count <= 200_000 else b"")
        # As old as most files are: what was written a moment ago would be looked at once more.
        os.utime(file, (OLD + number, OLD + number))
    for folder in (rig.source, *rig.source.iterdir()):
        os.utime(folder, (OLD, OLD))


def idle_daemon(rig: Rig) -> tuple[int, float]:
    """Return the sleeping daemon's resident bytes and the CPU seconds of one of its passes."""
    (rig.source / "file").write_text("x")
    rig.back_up()
    daemon = rig.start("run")
    until(lambda: '"IDLE"' in (rig.run_dir / "status.json").read_text())
    time.sleep(5)
    before, passes = cpu_seconds(daemon.pid), 20
    for _ in range(passes):
        daemon.send_signal(1)  # SIGHUP: a pass now
        time.sleep(0.5)
    spent = (cpu_seconds(daemon.pid) - before) / passes
    resident = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    daemon.terminate()
    daemon.wait()
    return resident, spent


def cpu_seconds(pid: int) -> float:
    """Return what a process and its ended children have spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def overhead(rig: Rig, rounds: int) -> list[tuple[str, list[float], float]]:
    """Return the ratios of a backup to its own rsync command alone, by what there is to do.

    Where nothing changed, once by comparing every entry and once by comparing listings, both against the
    rsync that compares every entry.
    """
    names = ("first backup", "nothing changed, detect: full", "nothing changed, detect: manifest")
    found: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, float] = {}
    for _ in range(rounds):
        for name in names:
            rig.configure(f"{{period: 1d, keep: 3, detect: {'manifest' if 'manifest' in name else 'full'}}}")
            # What the daemon does between two backups.
            subprocess.run([*CLI, "-c", str(rig.config), "chores"], check=True, stdout=subprocess.DEVNULL)
            ours, command = engine(rig)
            alone[name] = plain(rig, command) if command else alone[names[1]]
            found[name].append(ours / alone[name])
        clear(rig)
    return [(name, ratios, alone[name]) for name, ratios in found.items()]


def engine(rig: Rig) -> tuple[float, str]:
    """Return how long a pass takes and the rsync command that it ran, if any, as it is logged.

    The pass runs in this process: the daemon is resident, so that nobody waits for Python to start.
    """
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("flashback").addHandler(handler)
    logging.getLogger("flashback").setLevel(logging.INFO)
    board = Board(config.load(rig.config), clock.now)
    cold()
    begun = time.monotonic()
    (made,) = actions.run_pass(board, lambda: None, target="laptop")
    took = time.monotonic() - begun
    logging.getLogger("flashback").removeHandler(handler)
    if made.state is not JobState.SUCCEEDED:
        sys.exit(made.reason)
    return took, next((line for line in lines if "rsync" in line and "&&" in line), "")


def plain(rig: Rig, logged: str) -> float:
    """Return how long the same rsync takes alone, into another directory, until all is on the disk."""
    line = logged.partition(": ")[2]
    where, _, command = line.partition(" && ")
    words = shlex.split(command)
    words[-1] = "incoming.plain/"
    (Path(shlex.split(where)[1]) / "incoming.plain").mkdir()
    newest = rig.complete()[:-1]
    words = [word for word in words if not word.startswith("--link-dest=")]
    if newest:
        words.insert(-3, f"--link-dest=../{newest[-1].name}")
    cold()
    begun = time.monotonic()
    subprocess.run(["env", *words], cwd=shlex.split(where)[1], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", "-f", str(rig.disk)], check=True)
    took = time.monotonic() - begun
    subprocess.run(["rm", "-rf", str(rig.label / "incoming.plain")], check=True)
    return took


def clear(rig: Rig) -> None:
    for path in rig.complete():
        # Inode 256 is the top of a btrfs subvolume.
        delete = ["btrfs", "subvolume", "delete"] if path.stat().st_ino == 256 else ["rm", "-rf"]
        subprocess.run([*delete, str(path)], check=True, stdout=subprocess.DEVNULL)


def cold() -> None:
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def within_limit(rig: Rig) -> tuple[int, float]:
    """Back up inside a memory limit; return the largest size of its processes together, and seconds."""
    with limited() as group:
        cold()
        begun = time.monotonic()
        command = [*CLI, "-c", str(rig.config), "backup", "laptop"]
        enter = f"echo $$ > {group}/cgroup.procs && exec {shlex.join(command)}"
        child = subprocess.Popen(
            ["sh", "-c", enter], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        peak = 0
        while child.poll() is None:
            peak = max(peak, anonymous(group))
            time.sleep(0.2)
        said, _ = child.communicate()
        if child.returncode:
            sys.exit(f"inside {LIMIT >> 20} MB: {said}")
        return peak, time.monotonic() - begun


@contextlib.contextmanager
def limited() -> Iterator[Path]:
    """Make a control group with the memory limit, of either kind."""
    first = (GROUPS / "cgroup.controllers").exists()
    group = (GROUPS if first else GROUPS / "memory") / f"flashback-limits-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.max" if first else "memory.limit_in_bytes")).write_text(str(LIMIT))
        yield group
    finally:
        time.sleep(0.5)
        group.rmdir()


def anonymous(group: Path) -> int:
    """Return the bytes of the group that are not page cache."""
    for line in (group / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("anon", "total_rss"):
            return int(value)
    return 0


if __name__ == "__main__":
    main()
