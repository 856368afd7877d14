"""A client on loopback: a real sshd with a forced `rrsync -ro`, a disk directory, the real command."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import select
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Where xfs keeps access control lists; root sees them twice.
XFS_LISTS = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT")
CLI = [sys.executable, "-m", "flashback"]


@dataclass
class Terminal:
    """What a command wrote on a terminal, with everything that steers it."""

    master: int
    child: subprocess.Popen[bytes]
    written: str = ""

    def read(self, words: str | None = None, seconds: float = 60.0) -> str:
        """Read until these words were written, or to the end of the command; return all that was written."""
        deadline = time.monotonic() + seconds
        while words is None or words not in self.written:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"it did not happen in time: {self.written!r}"
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                # Nobody holds the other side any more.
                piece = b""
            if not piece:
                assert words is None, f"it ended without {words!r}: {self.written!r}"
                self.child.wait(seconds)
                break
            self.written += piece.decode().replace("\r\n", "\n")
        return self.written

    @property
    def code(self) -> int:
        return self.child.wait(60)

    @property
    def lines(self) -> list[str]:
        return self.written.splitlines()


@dataclass
class Rig:
    """One plug and one client in a temporary directory."""

    top: Path
    port: int
    settings: str = "{period: 1d, keep: 3}"
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return self.top / "source"

    @property
    def disk(self) -> Path:
        return self.top / "disk"

    @property
    def label(self) -> Path:
        return self.disk / "laptop/home/daily"

    @property
    def run_dir(self) -> Path:
        return self.top / "run"

    @property
    def door(self) -> Path:
        """What the client's sshd wrote down."""
        return self.top / "sshd.log"

    @property
    def config(self) -> Path:
        return self.top / "flashback.yml"

    def configure(self, settings: str | None = None, more: str = "") -> None:
        self.settings = settings or self.settings
        self.config.write_text(
            f"data_dir: {self.disk}\nrun_dir: {self.run_dir}\ninterval: 1h\nclock: {{wait_for_sync: false}}\n"
            f"ssh: {{key: {self.top}/id, known_hosts: {self.top}/known_hosts}}\n"
            f"hosts:\n  laptop:\n    addresses: [127.0.0.1]\n    port: {self.port}\n    volumes:\n"
            f"      home: {{source: /, jobs: {{daily: {self.settings}}}}}\n{more}"
        )

    def call(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, "-c", str(self.config), *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **(env or {})},
        )

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*CLI, "-c", str(self.config), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.started.append(child)
        return child

    @contextmanager
    def terminal(
        self, *words: str, columns: int = 80, env: dict[str, str] | None = None
    ) -> Iterator[Terminal]:
        """Run a command on a terminal of so many columns."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        child = subprocess.Popen(
            ["setsid", "--ctty", "env", "--default-signal=HUP,INT", *CLI, "-c", str(self.config), *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**plain, "TERM": "xterm", **(env or {})},
        )
        os.close(slave)
        try:
            yield Terminal(master, child)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            with suppress(OSError):
                os.close(master)

    def look(self, *words: str, columns: int = 80, env: dict[str, str] | None = None) -> Terminal:
        """Run a command on a terminal to its end."""
        with self.terminal(*words, columns=columns, env=env) as terminal:
            terminal.read()
            return terminal

    def back_up(self) -> Path:
        """Back up once, return the new snapshot."""
        done = self.call("backup", "laptop")
        assert done.returncode == 0, done.stdout + done.stderr
        return self.complete()[-1]

    def complete(self) -> list[Path]:
        return sorted(self.label.glob("20*Z"))

    def rsyncs(self) -> list[str]:
        """Return the rsync processes that work on this disk."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0] == b"rsync" and str(self.top).encode() in os.fsencode((entry / "cwd").readlink()):
                    found.append(entry.name)
            except OSError:  # noqa: PERF203 - processes end while they are looked at
                continue
        return found


def until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def tree(top: Path) -> list[Any]:
    """Return everything that a backup must keep, entry by entry."""
    found: list[Any] = []
    first: dict[int, str] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        name = os.fsencode(path.relative_to(top)).hex()
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            # Hard links: which name is the first of the same inode inside this tree.
            content += first.setdefault(status.st_ino, name)
        elif stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if key not in XFS_LISTS
        }
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        numbers = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns, size)
        found.append((name, numbers, content, sorted(attributes.items())))
    return found


def keygen(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@contextmanager
def running(tmp_path: Path) -> Iterator[Rig]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Rig(tmp_path, port)
    made.source.mkdir()
    (made.disk / ".flashback").mkdir(parents=True)
    (made.disk / ".flashback/id").write_text("token\n")
    (tmp_path / "known_hosts").write_text(f"laptop {keygen(tmp_path / 'host')}\n")
    key = keygen(tmp_path / "id")
    (tmp_path / "authorized").write_text(f'restrict,command="rrsync -ro {made.source}" {key}\n')
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/authorized\nUsePAM no\nPasswordAuthentication no\nMaxStartups 50\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    sshd = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-f", str(tmp_path / "sshd_config"), "-E", str(made.door)]
    )
    try:
        made.configure()
        until(lambda: listens("127.0.0.1", port))
        yield made
    finally:
        for child in made.started:
            if child.poll() is None:
                child.kill()
            child.communicate()
        sshd.terminate()
        sshd.wait()


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0
