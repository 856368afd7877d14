"""BackupPC 4 with the settings that it comes with: a pool of compressed files, and a daemon."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.places import HOST, Lot, own_by, server
from bench.tools.base import Argv, Tool, chain

USER = "backuppc"
BIN = "/usr/share/backuppc/bin"
CONFIG = Path("/etc/backuppc/config.pl")
FULL_EVERY = 7
"""Backups from one full to the next: FullPeriod is a week."""
# Debian's package has these three places built in; a mount namespace of its own puts the bench's there.
PLACES = ("/etc/backuppc", "/var/lib/backuppc", "/run/backuppc")


class BackupPC(Tool):
    """The daemon rests in the server's group; a dump is what the daemon would start."""

    name = "backuppc"
    how = "`BackupPC_dump`, first full, then incremental, full each 7th; compression 3, daemon running"
    program: ClassVar[Argv] = [f"{BIN}/BackupPC_dump"]
    package = "backuppc"
    more: ClassVar[dict[str, object]] = {}
    """Settings other than those of the package."""

    @classmethod
    @contextlib.contextmanager
    def settled(cls, lot: Lot) -> Iterator[Tool]:
        """Yield it with a new pool and its daemon."""
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(server(lot))
            made = cls(place)
            made.configure()
            said = stack.enter_context((lot.folder / "daemon.log").open("wb"))
            daemon = subprocess.Popen(
                place.bench.server.within(made.as_user([f"{BIN}/BackupPC"])),
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/",
            )  # fmt: skip
            try:
                made.wait_for_daemon()
                yield made
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait()

    def configure(self) -> None:
        """Write the package's settings with what has to differ, and the key that logs in."""
        place, folder = self.place, self.place.folder
        ssh = place.client.admit(folder, None)
        for name in ("etc", "run", "disk/pool-of-backuppc"):
            (folder / name).mkdir()
            own_by(USER, folder / name)
        (folder / "etc/config.pl").write_text(
            CONFIG.read_text(encoding="latin-1") + self._settings(ssh), encoding="latin-1"
        )
        (folder / "etc/hosts").write_text(f"host dhcp user moreUsers\n{HOST} 0 {USER}\n")
        own_by(USER, ssh, folder / "free", folder / "etc/config.pl", folder / "etc/hosts")

    def _settings(self, ssh: Path) -> str:
        """Return what differs from the package's settings."""
        settings: dict[str, object] = {
            "XferMethod": "'rsync'",
            "RsyncShareName": f"'{self.place.client.source}'",
            "RsyncSshArgs": f"['-e', '$sshPath -F {ssh}']",
            "ClientNameAlias": "'127.0.0.1'",
            # The manual's way to switch it off.
            "PingCmd": "'/bin/echo'",
            # Programs for Windows clients, without which the daemon does not begin.
            "SmbClientPath": "undef",
            "NmbLookupCmd": "undef",
            "NmbLookupPath": "undef",
            # The bench says when something is done.
            "BackupsDisable": 1,
            "WakeupSchedule": f"[{(time.localtime().tm_hour + 12) % 24}]",
            "FullKeepCnt": 1,
            "IncrKeepCnt": self.place.keep - 1,
            **self.more,
        }
        return "\n" + "".join(f"$Conf{{{name}}} = {value};\n" for name, value in settings.items())

    def wait_for_daemon(self) -> None:
        """Return when the daemon answers."""
        deadline = time.monotonic() + 30
        while not (self.place.folder / "run/BackupPC.sock").exists():
            if time.monotonic() > deadline:
                said = (self.place.folder / "daemon.log").read_text(errors="replace").strip()[-300:]
                raise OSError(f"the daemon of BackupPC does not answer: {said}")
            time.sleep(0.1)

    def as_user(self, argv: Argv) -> Argv:
        """Return the command as its user, where its places are the bench's."""
        folder = self.place.folder
        ours = (folder / "etc", folder / "disk/pool-of-backuppc", folder / "run")
        made = [["mkdir", "-p", *PLACES]]
        made += [["mount", "--bind", str(own), place] for own, place in zip(ours, PLACES, strict=True)]
        user = [
            "setpriv",
            "--reuid",
            USER,
            "--regid",
            USER,
            "--init-groups",
            "--",
            "env",
            "HOME=/var/lib/backuppc",
        ]
        return ["unshare", "--mount", *chain(*made, ["exec", *user, *argv])]

    def backup(self) -> Argv:
        """Return a dump, full or incremental."""
        kind = "-f" if self.made % FULL_EVERY == 0 else "-i"
        return self.as_user([f"{BIN}/BackupPC_dump", kind, HOST])

    def daily(self) -> Argv:
        """Return a dump, which lets go of old ones, and the nightly work that frees their room."""
        return chain(self.backup(), self._nightly())

    def expire(self) -> Argv:
        """Return the deletion of the oldest backup and the nightly work that frees its room."""
        return chain(
            self.as_user([f"{BIN}/BackupPC_backupDelete", "-h", HOST, "-n", "0", "-r"]), self._nightly()
        )

    def _nightly(self) -> Argv:
        return self.as_user([f"{BIN}/BackupPC_nightly", "-m", "-P", "0", "0", "255"])

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return the newest backup as an archive, unpacked."""
        archive = [f"{BIN}/BackupPC_tarCreate", "-h", HOST, "-n", "-1", "-s", str(self.place.client.source)]
        made = self.as_user([*archive, f"/{path}"])
        return ["sh", "-c", f"{shlex.join(made)} | tar -xpf - -C {shlex.quote(str(to))}"]


class BackupPCPlain(BackupPC):
    """The same without compression."""

    name = "backuppc-plain"
    how = "as backuppc, with compression 0"
    more: ClassVar[dict[str, object]] = {"CompressLevel": 0}
