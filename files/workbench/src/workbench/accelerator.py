"""Find out whether hardware virtualisation works here, by trying it.

A machine may offer /dev/kvm and yet hang before the kernel's first line, so the only proof is a
kernel that has spoken within a time limit.  The answer holds until the machine is booted again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

from workbench import processes

PROBE_SECONDS = 10.0
PROOF = b"Linux version"


def choose(kernel: Path, cache_root: Path) -> str:
    """Return ``kvm`` where a kernel has been seen to start with it, else ``tcg`` (emulation)."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = cache_root / "accelerator.json"
    try:
        known = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    if known.get("boot") != boot:
        known = {"boot": boot, "accelerator": "kvm" if _kernel_speaks(kernel) else "tcg"}
        cache_root.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(known) + "\n")
    return str(known["accelerator"])


def _kernel_speaks(kernel: Path) -> bool:
    serial, serial_end = os.pipe()
    os.set_blocking(serial, False)
    machine = subprocess.Popen(
        [
            "qemu-system-x86_64", "-accel", "kvm", "-machine", "q35", "-m", "128", "-display", "none",
            "-no-reboot", "-serial", "stdio", "-monitor", "none", "-nic", "none",
            "-kernel", str(kernel), "-append", "console=ttyS0 earlyprintk=serial panic=-1",
        ],
        stdin=subprocess.DEVNULL,
        stdout=serial_end,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    heard = b""
    os.close(serial_end)
    deadline = time.monotonic() + PROBE_SECONDS
    try:
        while PROOF not in heard and time.monotonic() < deadline and machine.poll() is None:
            time.sleep(processes.POLL_SECONDS)
            with contextlib.suppress(BlockingIOError):
                heard += os.read(serial, 65536)
    finally:
        machine.kill()
        machine.wait()
        os.close(serial)
    return PROOF in heard
