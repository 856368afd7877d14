"""A plug in QEMU: its stick and its backup disk are USB storage, its light is a keyboard's.

The machine's folder holds everything about it: ``stick.img`` with its kernel, ``disk.img``, the pid
file, the console's log.  The machine runs on its own once it has answered on its ssh port; until
then it is ended together with the run that started it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench import accelerator, cache, processes
from workbench.errors import WorkbenchError
from workbench.stick import ROOT_LABEL

LOOPBACK = "127.0.0.1"
POWER_OFF_SECONDS = 90.0

#: All that a virtual plug's folder holds, its sample client included.
PARTS = (
    "stick.img*", "stick-*", "disk.img", "vmlinuz", "initrd", "secrets", "client", "ssh_config",
    "known_hosts", "console.log", "qemu.log", "machine.json", "qemu.pid", "run.json", "run.lock",
)  # fmt: skip


@dataclass(frozen=True)
class VirtualPlug:
    """What the virtual board is made of."""

    folder: Path
    ssh_port: int
    memory_mib: int
    disk_size: int
    """Bytes of the backup disk (a sparse file)."""
    stick_serial: str
    disk_serial: str
    acceleration: str = "auto"
    """auto, kvm or tcg."""
    boot_seconds: float = 300.0
    """How long the first answer on the ssh port may take."""

    @property
    def stick(self) -> Path:
        """Image that the board boots from."""
        return self.folder / "stick.img"

    @property
    def disk(self) -> Path:
        """Image of the backup disk."""
        return self.folder / "disk.img"

    @property
    def console(self) -> Path:
        """Log of the serial console since the last start."""
        return self.folder / "console.log"


def pid_of(folder: Path) -> int | None:
    """Return the process of the running machine of this folder."""
    try:
        pid = int((folder / "qemu.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if processes.mentions(pid, str(folder / "qemu.pid")) else None


def start(plug: VirtualPlug, cache_root: Path) -> bool:
    """Start the machine and wait for its ssh server; return False when it ran already."""
    launched = processes.Launched()
    if pid_of(plug.folder) is not None:
        _await_ssh(plug, launched, lambda: pid_of(plug.folder) is not None)
        return False
    machine = _power_on(plug, cache_root)
    try:
        _await_ssh(plug, launched, lambda: machine.poll() is None)
    except BaseException:
        machine.kill()
        machine.wait()
        _forget(plug.folder)
        raise
    return True


def _power_on(plug: VirtualPlug, cache_root: Path) -> subprocess.Popen[bytes]:
    """Start QEMU in a session of its own, so that it stays when this process ends."""
    processes.require_tools("qemu-system-x86_64")
    if not plug.stick.exists():
        raise WorkbenchError(f"There is no stick image in {plug.folder}", "Run playbooks/flash.yml first")
    require_free_port(plug.ssh_port, "virtual_plug_ssh_port")
    if not plug.disk.exists():
        cache.require_space(plug.folder, 1 * cache.GIB)
        with plug.disk.open("wb") as disk:
            disk.truncate(plug.disk_size)
    acceleration = plug.acceleration
    if acceleration == "auto":
        acceleration = accelerator.choose(plug.folder / "vmlinuz", cache_root)
    plug.console.unlink(missing_ok=True)
    _monitor_socket(plug.folder).unlink(missing_ok=True)
    record = {**asdict(plug), "folder": str(plug.folder), "acceleration": acceleration}
    (plug.folder / "machine.json").write_text(json.dumps(record, indent=2) + "\n")
    with _emulator_log(plug.folder).open("wb") as log:
        return subprocess.Popen(
            _qemu(plug, acceleration),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": processes.search_path()}, start_new_session=True,
        )  # fmt: skip


def _qemu(plug: VirtualPlug, acceleration: str) -> list[str]:
    """Return the command that is the running machine."""
    accel = "tcg,thread=multi,tb-size=256" if acceleration == "tcg" else acceleration
    kernel_arguments = f"root=LABEL={ROOT_LABEL} rootwait ro console=ttyS0 net.ifnames=0 quiet"
    return [
        "qemu-system-x86_64",
        "-name", f"plug:{plug.folder.name}",
        "-machine", "q35",
        "-accel", accel,
        "-cpu", "host" if acceleration == "kvm" else "qemu64",
        "-smp", str(min(2, os.cpu_count() or 1)),
        "-m", str(plug.memory_mib),
        "-kernel", str(plug.folder / "vmlinuz"),
        "-initrd", str(plug.folder / "initrd"),
        "-append", kernel_arguments,
        "-device", "qemu-xhci,id=usb",
        *_usb_disk("stick", plug.stick, plug.stick_serial, removable=True),
        *_usb_disk("disk", plug.disk, plug.disk_serial, removable=False),
        "-netdev", f"user,id=net,hostfwd=tcp:{LOOPBACK}:{plug.ssh_port}-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
        "-serial", f"file:{plug.console}",
        "-qmp", f"unix:{_monitor_socket(plug.folder)},server=on,wait=off",
        "-display", "none",
        "-pidfile", str(plug.folder / "qemu.pid"),
    ]  # fmt: skip


def _usb_disk(name: str, image: Path, serial: str, *, removable: bool) -> list[str]:
    return [
        "-drive", f"if=none,id={name},file={image},format=raw",
        "-device", f"usb-storage,bus=usb.0,id=usb-{name},drive={name},serial={serial},"
        f"removable={'on' if removable else 'off'}",
    ]  # fmt: skip


def _monitor_socket(folder: Path) -> Path:
    """Return the path of QEMU's control socket: short, because a socket's path may have 107 bytes."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"plug-{name}.qmp"


def require_free_port(port: int, variable: str) -> None:
    """Refuse a loopback port that another program has."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise WorkbenchError(
                f"Port {port} on {LOOPBACK} can not be used ({error.strerror})",
                f"End the program that has it, or set {variable} to a free one",
            ) from error


def _await_ssh(plug: VirtualPlug, launched: processes.Launched, is_on: Callable[[], bool]) -> None:
    """Wait until the ssh server greets: QEMU itself accepts connections long before."""
    deadline = time.monotonic() + plug.boot_seconds
    while not greets(plug.ssh_port):
        launched.check()
        if not is_on():
            raise WorkbenchError(
                f"The virtual plug went off while it booted; its console ended with: {_last_words(plug)}"
            )
        if time.monotonic() > deadline:
            raise WorkbenchError(
                f"The virtual plug has not answered on port {plug.ssh_port} within {plug.boot_seconds:.0f} s;"
                f" its console ended with: {_last_words(plug)}",
                f"The whole console is in {plug.console}",
            )
        time.sleep(processes.POLL_SECONDS)


def greets(port: int) -> bool:
    """Tell whether an ssh server greets on this loopback port within two seconds."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _emulator_log(folder: Path) -> Path:
    return folder / "qemu.log"


def _last_words(plug: VirtualPlug) -> str:
    """Return the end of what the emulator itself complained of and of what the machine's console showed."""
    lines: list[str] = []
    for log in (plug.console, _emulator_log(plug.folder)):
        with contextlib.suppress(FileNotFoundError):
            lines += log.read_text(errors="replace").split("\n")
    return " / ".join([line.strip() for line in lines if line.strip()][-3:]) or "(nothing)"


def stop(folder: Path) -> bool:
    """Switch the machine off as its power button would; return False when it was off."""
    pid = pid_of(folder)
    if pid is None:
        return False
    if not (_press_power_button(folder) and _gone(pid, POWER_OFF_SECONDS)):
        _kill(folder)
    _forget(folder)
    return True


def cut_power(folder: Path) -> bool:
    """Take the current away: what the machine had not written to its disks is lost."""
    running = pid_of(folder) is not None
    _kill(folder)
    _forget(folder)
    return running


def remove(folder: Path) -> None:
    """Delete what belongs to the virtual plug, and the folder when nothing else is in it."""
    for pattern in PARTS:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _forget(folder: Path) -> None:
    (folder / "qemu.pid").unlink(missing_ok=True)
    _monitor_socket(folder).unlink(missing_ok=True)


def _kill(folder: Path) -> None:
    pid = pid_of(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        _gone(pid, processes.GRACE_SECONDS)


def _gone(pid: int, seconds: float) -> bool:
    return processes.eventually(lambda: processes.process(pid) is None, seconds)


def _press_power_button(folder: Path) -> bool:
    """Ask QEMU to press the button; return False when its control socket does not answer."""
    try:
        _order(folder, "system_powerdown")
    except OSError:
        return False
    return True


def pull_disk(folder: Path, name: str = "usb-disk") -> None:
    """Pull the backup disk, or another one, out of the running plug, as a hand would."""
    _order(folder, "device_del", id=name)


def return_disk(folder: Path) -> None:
    """Plug the backup disk in again."""
    serial = json.loads((folder / "machine.json").read_text())["disk_serial"]
    plug_in(folder, folder / "disk.img", serial, "usb-disk")


def plug_in(folder: Path, image: Path, serial: str, name: str) -> None:
    """Plug a disk into the running plug; `name` is what `pull_disk` knows it by."""
    # A name may be used once while the machine runs.
    node = f"disk-{time.monotonic_ns()}"
    file = {"driver": "file", "filename": str(image)}
    _order(folder, "blockdev-add", **{"driver": "raw", "node-name": node, "file": file})
    _order(
        folder, "device_add", driver="usb-storage", bus="usb.0", id=name, drive=node, serial=serial,
        removable=False,
    )  # fmt: skip


def _order(folder: Path, command: str, **arguments: object) -> None:
    """Give QEMU one order over its control socket (QMP); raise OSError when it does not follow."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(30)
        monitor.connect(str(_monitor_socket(folder)))
        with monitor.makefile("rw") as lines:
            lines.readline()
            for name, words in (("qmp_capabilities", {}), (command, arguments)):
                lines.write(json.dumps({"execute": name, "arguments": words}) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                # Events come in between.
                while "return" not in answer and "error" not in answer:
                    answer = json.loads(lines.readline())
                if "error" in answer:
                    raise OSError(f"QEMU refuses {name}: {answer['error'].get('desc')}")
