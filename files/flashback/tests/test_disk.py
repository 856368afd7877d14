"""The mark that tells the backup disk from an empty mount point, on a real file system."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flashback import disk
from flashback.errors import FlashbackError, NotNowError
from flashback.model import Config

from .rig import CLI


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_mounted_disk_gets_a_mark_and_keeps_it(mounted: Path) -> None:
    first = disk.mark(mounted)
    assert len(first) == 36
    assert (mounted / ".flashback/id").read_text() == f"{first}\n"
    assert disk.mark(mounted) == first


def test_the_disk_says_how_to_restore_from_it(mounted: Path) -> None:
    disk.mark(mounted)
    assert "No program is needed" in (mounted / ".flashback/README.txt").read_text()


def test_a_folder_on_which_nothing_is_mounted_gets_no_mark(tmp_path: Path) -> None:
    with pytest.raises(FlashbackError, match="Nothing is mounted"):
        disk.mark(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([*CLI, "disk", "mark", str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    remedy = "Mount the backup disk there, then mark it"
    assert done.stderr == f"flashback: Nothing is mounted on {tmp_path}. {remedy}\n"


def test_a_locked_disk_is_told_from_a_missing_one(mounted: Path, tmp_path: Path) -> None:
    container = tmp_path / "container"
    away = Config(tmp_path / "flashback.yml", tmp_path / "empty", container=container)
    away.data_dir.mkdir()
    assert (disk.look(away).present, disk.look(away).locked) == (False, False)
    container.touch()
    assert disk.look(away).locked
    assert "unlock-backup-disk" in disk.look(away).reason
    with pytest.raises(NotNowError, match="locked"):
        disk.require(away)
    # Mounted, but not marked yet: it is no more locked than one that was never encrypted.
    here = replace(away, data_dir=mounted)
    assert not disk.look(here).locked
    disk.mark(mounted)
    assert disk.look(here).present
