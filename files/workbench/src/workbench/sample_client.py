"""A computer to back up where there is none: real files of this machine, behind an sshd of their own.

The server listens on the loopback address only, runs as the present user, and lets in nobody but
the keys of its own file.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from workbench import processes
from workbench.errors import WorkbenchError
from workbench.virtual_plug import LOOPBACK, greets, require_free_port

START_SECONDS = 10.0


@dataclass(frozen=True)
class SampleClient:
    """Where the client lives and how much it has."""

    folder: Path
    port: int
    files: int
    """How many files its home has, odd names and links apart."""

    @property
    def home(self) -> Path:
        """The tree that is backed up."""
        return self.folder / "home"

    @property
    def authorized_keys(self) -> Path:
        """The keys that its sshd lets in."""
        return self.folder / "authorized_keys"

    @property
    def host_key(self) -> Path:
        """The private half of its identity."""
        return self.folder / "ssh_host_ed25519_key"


def start(client: SampleClient) -> bool:
    """Make the home and start the server; return whether anything was to be done."""
    processes.require_tools("sshd", "ssh-keygen", "rsync", "rrsync")
    client.folder.mkdir(parents=True, exist_ok=True)
    made = _make_home(client)
    if not client.host_key.exists():
        processes.run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                "sample client",
                "-f",
                str(client.host_key),
            ],
            what="Making the sample client's host key",
        )
    return _start_sshd(client) or made


def stop(folder: Path) -> bool:
    """End the server; return False when it was not running."""
    pid = _pid(folder)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    processes.eventually(lambda: processes.process(pid) is None, processes.GRACE_SECONDS)
    return True


def _pid(folder: Path) -> int | None:
    try:
        pid = int((folder / "sshd.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    # sshd rewrites its command line to one string that still holds its arguments.
    return pid if processes.mentions(pid, str(folder / "sshd_config")) else None


def _start_sshd(client: SampleClient) -> bool:
    if _pid(client.folder) is not None and greets(client.port):
        return False
    require_free_port(client.port, "sample_client_port")
    config = client.folder / "sshd_config"
    config.write_text(_sshd_config(client))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = shutil.which("sshd", path=processes.search_path()) or "/usr/sbin/sshd"
    processes.run(
        [sshd, "-f", str(config), "-E", str(client.folder / "sshd.log")], what="Starting the client's sshd"
    )
    if not processes.eventually(lambda: greets(client.port), START_SECONDS):
        raise WorkbenchError(
            f"The sample client's sshd does not answer on port {client.port}",
            f"Its log is {client.folder / 'sshd.log'}",
        )
    return True


def _sshd_config(client: SampleClient) -> str:
    return f"""\
ListenAddress {LOOPBACK}
Port {client.port}
HostKey {client.host_key}
PidFile {client.folder / "sshd.pid"}
AuthorizedKeysFile {client.authorized_keys}
AllowUsers {getpass.getuser()}
AuthenticationMethods publickey
PermitRootLogin forced-commands-only
# The checkout may lie below a folder that others may write.
StrictModes no
UsePAM no
LogLevel VERBOSE
"""


def _make_home(client: SampleClient) -> bool:
    """Copy real files into the home and add the odd ones; a home that is complete is left alone."""
    if client.home.exists():
        return False
    unfinished = client.folder / "home.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    projects = unfinished / "anna" / "projects"
    for source, relative in islice(_real_files(), client.files):
        target = projects / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    _add_oddities(unfinished / "anna")
    unfinished.rename(client.home)
    return True


def _real_files() -> Iterator[tuple[Path, Path]]:
    """Yield files that every workbench has (Python's library, then system files) and where to put them."""
    roots = (Path(sysconfig.get_path("stdlib")), Path("/usr/share/doc"), Path("/usr/share/perl"))
    for root in roots:
        for folder, names, files in os.walk(root):
            names[:] = sorted(name for name in names if name not in {"__pycache__", "site-packages"})
            for name in sorted(files):
                source = Path(folder) / name
                if source.is_file() and not source.is_symlink() and os.access(source, os.R_OK):
                    yield source, Path(root.name) / source.relative_to(root)


def _add_oddities(home: Path) -> None:
    """Add what a backup program may trip over: names, links, holes, times before 1970."""
    odd = home / "odd"
    odd.mkdir(parents=True)
    (odd / "a name with blanks and 'quotes'").write_text("blank\n")
    (odd / "-rf").write_text("a leading dash\n")
    (odd / "two\nlines").write_text("a newline\n")
    (odd / "Grüße.txt").write_text("umlauts\n")
    Path(os.fsdecode(os.fsencode(odd) + b"/latin1-\xe4\xf6")).write_text("not UTF-8\n")
    (odd / ("x" * 255)).write_text("as long as a name can be\n")
    (odd / "empty").touch()
    (odd / "hard link").hardlink_to(odd / "-rf")
    (odd / "symlink").symlink_to("Grüße.txt")
    (odd / "dangling").symlink_to("/nowhere")
    with (odd / "sparse.img").open("wb") as sparse:
        sparse.truncate(64 << 20)
        sparse.seek(32 << 20)
        sparse.write(b"in the middle of nothing")
    (odd / "old").write_text("from before the epoch\n")
    os.utime(odd / "old", (-86400, -86400))
