"""The two machines, both on loopback: the client with the home, and for each program a server with a disk.

The client is the engine tests' rig: a real sshd with a key that can only run `rrsync -ro`.  Programs that
do not pull with rsync get one more key, with what their manual says about it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from disks import mounted
from rig import Rig, keygen, running

from bench.groups import Group, group
from bench.measure import Bench, Disk, Wire

HOST = "laptop"
# ext4 fills its inode tables in the background else, beside whatever is measured.
OPTIONS = {"ext4": "loop,noatime,noinit_itable", "xfs": "loop,noatime", "btrfs": "loop,noatime"}


@dataclass(frozen=True)
class Client:
    """The computer that is backed up; its sshd runs in a group of its own."""

    rig: Rig
    group: Group

    @property
    def source(self) -> Path:
        """Return where its home is."""
        return self.rig.source

    def admit(self, folder: Path, forced: str | None) -> Path:
        """Make a key in `folder` that can run one command here, or any, and return its ssh settings."""
        key = keygen(folder / "free")
        command = f'command="{forced}"' if forced else "no-pty"
        with (self.rig.top / "authorized").open("a", encoding="utf-8") as file:
            file.write(f"restrict,{command} {key}\n")
        return write_ssh_config(folder, self.rig, folder / "free")


@dataclass(frozen=True)
class Place:
    """A server for one program: its directory, its disk, what watches it, the client that it backs up."""

    folder: Path
    client: Client
    bench: Bench
    keep: int

    @property
    def disk(self) -> Path:
        """Return where its disk is mounted."""
        return self.bench.disk.mount


@contextlib.contextmanager
def client(folder: Path, wire: Wire) -> Iterator[Client]:
    """Run a client with an empty home."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(group("client"))
        with own.entered():
            rig = stack.enter_context(running(folder))
        wire.watch(rig.port)
        write_ssh_config(folder, rig, folder / "id")
        yield Client(rig, own)


@dataclass(frozen=True)
class Lot:
    """What a server is made from: its directory, its client, the kind and size of its disk, what is kept."""

    folder: Path
    client: Client
    wire: Wire
    kind: str
    size: int
    keep: int

    def place(self, own: Group, disk: Path, port: int) -> Place:
        """Return the server when its disk is mounted and its group is there."""
        return Place(
            self.folder, self.client, Bench(own, self.client.group, Disk(disk), self.wire, port), self.keep
        )


@contextlib.contextmanager
def server(lot: Lot) -> Iterator[Place]:
    """Mount a new disk for a program that pulls."""
    lot.folder.mkdir()
    with group(lot.folder.name) as own, mounted(lot.kind, lot.folder, OPTIONS[lot.kind], lot.size) as disk:
        yield lot.place(own, disk, lot.client.rig.port)


@contextlib.contextmanager
def pushed_to(lot: Lot, forced: str) -> Iterator[Place]:
    """Mount a new disk and run an sshd beside it, where the client's key can run one command."""
    lot.folder.mkdir()
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(group(lot.folder.name))
        with own.entered():
            rig = stack.enter_context(running(lot.folder))
        key = " ".join((lot.folder / "id.pub").read_text().split()[:2])
        (lot.folder / "authorized").write_text(f'restrict,command="{forced}" {key}\n')
        write_ssh_config(lot.folder, rig, lot.folder / "id")
        lot.wire.watch(rig.port)
        disk = stack.enter_context(mounted(lot.kind, lot.folder, OPTIONS[lot.kind], lot.size))
        yield lot.place(own, disk, rig.port)


def write_ssh_config(folder: Path, rig: Rig, key: Path) -> Path:
    """Write the ssh settings that reach a rig's sshd with that key, the same for all programs."""
    path = folder / "ssh_config"
    path.write_text(
        f"Host {HOST} 127.0.0.1\n HostName 127.0.0.1\n Port {rig.port}\n User root\n IdentityFile {key}\n"
        f" IdentitiesOnly yes\n BatchMode yes\n UserKnownHostsFile {rig.top}/known_hosts\n"
        f" GlobalKnownHostsFile /dev/null\n HostKeyAlias laptop\n StrictHostKeyChecking yes\n"
    )
    return path


def own_by(user: str, *paths: Path) -> None:
    """Give files to a user who is not root."""
    for path in paths:
        shutil.chown(path, user, user)
