"""Turn a system and its personal files into the image of a bootable USB stick.

The image holds a DOS partition table and one ext4 partition.  It is written under another name and
gets its own only when it is complete: an interrupted flash leaves nothing that could be booted.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from workbench import cache, processes, uboot
from workbench.errors import WorkbenchError

MIB = 1 << 20
FIRST_PARTITION = 1 * MIB
ROOT_LABEL = "plugroot"


@dataclass(frozen=True)
class Stick:
    """What goes where: the archive of a system, a folder laid over it, and the image that results."""

    archive: Path
    overlay: Path
    image: Path
    size: int
    """Bytes of the whole image."""
    label: str = ROOT_LABEL
    """Label by which the kernel finds its root file system."""
    compatible: str = ""
    """For a board that boots by U-Boot: how its device tree names it; empty for others."""

    @property
    def partial(self) -> Path:
        """The name that the image has while it is written."""
        return self.image.with_name(self.image.name + ".unfinished")


def pack(stick: Stick) -> None:
    """Write the image.  Needs no root: fakeroot remembers who owns which file."""
    processes.require_tools("fakeroot", "sfdisk", "mke2fs", "debugfs", "fdtget", "tar")
    if stick.size < 64 * MIB:
        raise WorkbenchError(f"A stick of {stick.size} bytes is too small", "Give it 64 MiB or more")
    stick.image.parent.mkdir(parents=True, exist_ok=True)
    cache.require_space(stick.image.parent, 2 * cache.GIB)
    stick.partial.unlink(missing_ok=True)
    try:
        with stick.partial.open("wb") as image:
            image.truncate(stick.size)
        # It holds the plug's private keys.
        stick.partial.chmod(0o600)
        _partition(stick.partial)
        with tempfile.TemporaryDirectory(prefix="stick-", dir=stick.image.parent) as folder:
            processes.run(
                ["fakeroot", "--", "sh", "-euc", _packing_script(stick, Path(folder) / "root")],
                what="Packing the stick's file system",
            )
        _check(stick.partial)
        if stick.compatible:
            _check_uboot(stick.partial, stick.compatible)
        stick.partial.rename(stick.image)
    finally:
        stick.partial.unlink(missing_ok=True)


def _partition(image: Path) -> None:
    table = image.with_name(image.name + ".table")
    table.write_text(f"label: dos\nstart={FIRST_PARTITION // 512}, type=83, bootable\n")
    try:
        processes.run(
            ["sh", "-euc", f"sfdisk --quiet {shlex.quote(str(image))} <{shlex.quote(str(table))}"],
            what="Partitioning the stick",
        )
    finally:
        table.unlink()


def _packing_script(stick: Stick, root: Path) -> str:
    """Return the steps that must share one fakeroot, as a shell script."""
    archive, overlay, folder, image = (
        shlex.quote(str(path)) for path in (stick.archive, stick.overlay, root, stick.partial)
    )
    blocks = (stick.size - FIRST_PARTITION) // 1024
    # The U-Boot that people have put onto their plugs years ago reads the ext4 of its time.
    old = "-O ^metadata_csum,^metadata_csum_seed,^64bit,^orphan_file"
    features = old if stick.compatible else ""
    return f"""
        mkdir {folder}
        tar --extract --preserve-permissions --numeric-owner --file={archive} --directory={folder}
        chown --recursive 0:0 {overlay}
        cp --archive {overlay}/. {folder}/
        mke2fs -q -F -t ext4 {features} -L {stick.label} -m 1 -E offset={FIRST_PARTITION},root_owner=0:0 \
            -d {folder} {image} {blocks}
    """


def _check(image: Path) -> None:
    """Read the image back: its table must name the partition and its file system must be clean."""
    listed = processes.run(["sfdisk", "--json", str(image)], what="Reading back the partition table")
    partitions = json.loads(listed)["partitiontable"]["partitions"]
    if [partition["start"] for partition in partitions] != [FIRST_PARTITION // 512]:
        raise WorkbenchError(f"{image} does not hold the partition that was written to it")
    processes.run(
        ["e2fsck", "-f", "-n", f"{image}?offset={FIRST_PARTITION}"], what="Checking the stick's file system"
    )


def _check_uboot(image: Path, compatible: str) -> None:
    """Read back what U-Boot is going to load: whole, and for this board."""
    kernel = uboot.read(_read(image, "/boot/uImage"))
    ramdisk = uboot.read(_read(image, "/boot/uInitrd"))
    if (kernel.kind, ramdisk.kind) != ("kernel", "ramdisk"):
        raise WorkbenchError(
            f"/boot holds a {kernel.kind} and a {ramdisk.kind} for U-Boot, not a kernel and a ramdisk"
        )
    with tempfile.TemporaryDirectory(prefix="stick-", dir=image.parent) as folder:
        tree = Path(folder) / "tree"
        tree.write_bytes(uboot.appended_tree(kernel.content))
        said = processes.run(["fdtget", str(tree), "/", "compatible"], what="Reading the device tree")
    if compatible not in said.split():
        raise WorkbenchError(
            f"The device tree behind the kernel is for {said.strip()}, not for {compatible}",
            "Mend stick_device_tree or stick_compatible in the board's file",
        )


def _read(image: Path, path: str) -> bytes:
    """Return a file of the stick's file system."""
    with tempfile.TemporaryDirectory(prefix="stick-", dir=image.parent) as folder:
        copy = Path(folder) / "file"
        processes.run(
            ["debugfs", "-R", f'dump "{path}" "{copy}"', f"{image}?offset={FIRST_PARTITION}"],
            what=f"Reading {path} back",
        )
        if not copy.exists() or copy.stat().st_size == 0:
            raise WorkbenchError(f"The system that was built has no {path}")
        return copy.read_bytes()
