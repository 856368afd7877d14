"""Real file systems for the tests: sparse loop images of ext4, xfs and btrfs, surely unmounted afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("ext4", "xfs", "btrfs")
# xfs refuses less than 300 MB.
SIZE = 512 << 20


@contextmanager
def mounted(kind: str, folder: Path, options: str = "loop,noatime", size: int = SIZE) -> Iterator[Path]:
    """Make a file system of that kind and yield where it is mounted, marked as a backup disk."""
    image, mount = folder / f"{kind}.img", folder / "disk"
    mount.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    quiet = "-f" if kind == "btrfs" else "-q"
    subprocess.run([f"mkfs.{kind}", quiet, str(image)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", options, str(image), str(mount)], check=True)
    try:
        (mount / ".flashback").mkdir()
        (mount / ".flashback/id").write_text("token\n")
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        image.unlink()
