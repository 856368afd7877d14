"""A stick's image: what was put in comes out, and an interrupted flash leaves nothing."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from workbench import stick
from workbench.errors import WorkbenchError

SIZE = 64 * stick.MIB


@pytest.fixture
def parts(tmp_path: Path) -> stick.Stick:
    system = tmp_path / "system"
    for folder in ("etc", "boot", "dev"):
        (system / folder).mkdir(parents=True)
    (system / "etc/hostname").write_text("from the system\n")
    (system / "boot/vmlinuz").write_bytes(b"\x00\x01" * 1000)
    with tarfile.open(tmp_path / "rootfs.tar", "w") as archive:
        for path in sorted(system.rglob("*")):
            member = archive.gettarinfo(str(path), arcname=str(path.relative_to(system)))
            member.uid = member.gid = 0 if path.name != "vmlinuz" else 33
            with path.open("rb") if path.is_file() else open("/dev/null", "rb") as content:  # noqa: PTH123
                archive.addfile(member, content)
    overlay = tmp_path / "overlay"
    (overlay / "etc").mkdir(parents=True)
    (overlay / "etc/hostname").write_text("attic\n")
    return stick.Stick(tmp_path / "rootfs.tar", overlay, tmp_path / "stick.img", SIZE)


def look(image: Path, command: str, tmp_path: Path) -> str:
    """Ask debugfs about the partition, copied out of the image."""
    partition = tmp_path / "partition"
    partition.write_bytes(image.read_bytes()[stick.FIRST_PARTITION :])
    return subprocess.run(
        ["/usr/sbin/debugfs", "-R", command, str(partition)], check=True, capture_output=True, text=True
    ).stdout


def test_the_overlay_wins_over_the_system(parts: stick.Stick, tmp_path: Path) -> None:
    stick.pack(parts)
    assert look(parts.image, "cat /etc/hostname", tmp_path) == "attic\n"


def test_owners_are_those_of_the_system_and_the_overlay_is_roots(parts: stick.Stick, tmp_path: Path) -> None:
    stick.pack(parts)
    assert "User:    33" in look(parts.image, "stat /boot/vmlinuz", tmp_path)
    assert "User:     0" in look(parts.image, "stat /etc/hostname", tmp_path)


def test_the_root_file_system_is_found_by_its_label(parts: stick.Stick, tmp_path: Path) -> None:
    stick.pack(parts)
    assert stick.ROOT_LABEL in look(parts.image, "show_super_stats -h", tmp_path)


def test_a_system_that_does_not_fit_leaves_no_image(parts: stick.Stick) -> None:
    (parts.overlay / "too large").write_bytes(b"x" * (SIZE + 1))
    with pytest.raises(WorkbenchError, match="Packing the stick's file system failed"):
        stick.pack(parts)
    assert not parts.image.exists()
    assert not parts.partial.exists()


def test_what_an_interrupted_flash_left_is_begun_afresh(parts: stick.Stick, tmp_path: Path) -> None:
    parts.partial.write_bytes(b"half a stick")
    stick.pack(parts)
    assert parts.image.stat().st_size == SIZE
    assert not parts.partial.exists()


def test_nothing_is_left_beside_the_image(parts: stick.Stick) -> None:
    before = {path.name for path in parts.image.parent.iterdir()}
    stick.pack(parts)
    assert {path.name for path in parts.image.parent.iterdir()} - before == {parts.image.name}
