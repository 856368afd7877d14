"""What U-Boot loads is read as mkimage has written it, and nothing damaged passes."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from workbench import uboot
from workbench.errors import WorkbenchError

TREE = b"\xd0\x0d\xfe\xed" + struct.pack(">I", 40) + b"cloudengines,pogoplugv4\0".ljust(32, b"\0")


def test_the_tree_behind_a_kernel_is_the_one_that_ends_with_it() -> None:
    kernel = b"code" * 100 + TREE[:20] + b"more code" + TREE
    assert uboot.appended_tree(kernel) == TREE
    for broken in (kernel[:-1], kernel + b"\0", b"code", b""):
        with pytest.raises(WorkbenchError, match="no device tree"):
            uboot.appended_tree(broken)


def test_the_tree_of_a_real_board_is_found_behind_its_kernel(tmp_path: Path) -> None:
    (tmp_path / "board.dts").write_text(
        '/dts-v1/; / { #address-cells = <1>; compatible = "maker,plug", "soc"; };'
    )
    subprocess.run(["dtc", "-O", "dtb", "-o", "board.dtb", "board.dts"], cwd=tmp_path, check=True)
    tree = (tmp_path / "board.dtb").read_bytes()
    assert uboot.appended_tree(b"kernel" * 1000 + tree) == tree


@pytest.fixture
def made(tmp_path: Path) -> bytes:
    """An image by the program that makes them."""
    (tmp_path / "kernel").write_bytes(b"code" * 1000)
    argv = "mkimage -A arm -O linux -T kernel -C none -a 0x8000 -e 0x8000 -n Linux -d kernel uImage"
    subprocess.run(argv.split(), cwd=tmp_path, check=True, capture_output=True)
    return (tmp_path / "uImage").read_bytes()


def test_an_image_is_read_as_it_was_made(made: bytes) -> None:
    found = uboot.read(made)
    assert (found.kind, found.name, found.load, found.entry) == ("kernel", "Linux", 0x8000, 0x8000)
    assert found.content == b"code" * 1000


@pytest.mark.parametrize("at", [0, 4, 12, 20, 40, 63, 64, -1])
def test_one_bit_is_enough_to_refuse_it(made: bytes, at: int) -> None:
    broken = bytearray(made)
    broken[at] ^= 1
    with pytest.raises(WorkbenchError):
        uboot.read(bytes(broken))


def test_an_image_that_is_cut_off_is_refused(made: bytes) -> None:
    for length in (0, 63, 64, len(made) - 1):
        with pytest.raises(WorkbenchError):
            uboot.read(made[:length])
