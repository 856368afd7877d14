"""The stick of a Pogoplug, built by emulation: U-Boot's own program reads it, its system runs on an ARMv5."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from workbench import stick, uboot

PROJECT = Path(__file__).resolve().parents[2]
BOARD = "pogoplug_v4"
# What the plug's processor knows; an instruction of a newer one ends the program.
PROCESSOR = {"QEMU_CPU": "arm926"}
# Those of the engine's tests that need nothing but Python.
ENGINE = ("test_pure", "test_retention", "test_schedule", "test_forecast")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sticks")
    environment = {**os.environ, "STICKS": str(folder)}
    subprocess.run(["make", "stick", f"BOARD={BOARD}"], cwd=PROJECT, check=True, env=environment)
    return folder / BOARD / "stick.img"


@pytest.fixture(scope="session")
def system(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the stick's file system, mounted and never written to."""
    place = tmp_path_factory.mktemp("stick")
    offset = stick.FIRST_PARTITION
    subprocess.run(["mount", "-o", f"loop,ro,offset={offset}", str(image), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def listed(path: Path) -> str:
    return subprocess.run(["dumpimage", "-l", str(path)], check=True, capture_output=True, text=True).stdout


def test_u_boots_own_program_accepts_what_it_is_going_to_load(system: Path) -> None:
    kernel, ramdisk = listed(system / "boot/uImage"), listed(system / "boot/uInitrd")
    assert re.search(r"Image Type: +ARM Linux Kernel Image \(uncompressed\)", kernel)
    assert re.search(r"Load Address: +00008000\nEntry Point: +00008000", kernel)
    assert re.search(r"Image Type: +ARM Linux RAMDisk Image \(gzip compressed\)", ramdisk)


def test_the_device_tree_is_that_of_the_board(system: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.write_bytes(uboot.appended_tree(uboot.read((system / "boot/uImage").read_bytes()).content))
    argv = ["fdtget", str(tree), "/", "compatible"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert said.split()[0] == "cloudengines,pogoplugv4"
    assert b"pogoplugv4:green:health" in tree.read_bytes()


def test_the_initramfs_reaches_a_usb_stick(system: Path) -> None:
    names = subprocess.run(
        ["lsinitramfs", str(next((system / "boot").glob("initrd.img-*")))],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    built_in = next((system / "usr/lib/modules").glob("*/modules.builtin")).read_text()
    for module in ("ehci-orion", "usb-storage", "sd_mod", "ext4"):
        assert f"/{module}.ko" in names or f"/{module}.ko" in built_in, module


def test_it_is_let_in_by_the_workbenchs_key_alone(system: Path) -> None:
    assert "workbench" in (system / "root/.ssh/authorized_keys").read_text()
    assert "root:*:" in (system / "etc/shadow").read_text()
    assert (system / "etc/fstab").read_text().splitlines()[1].startswith("LABEL=rootfs / ext4 ")


def on_the_board(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = [
        "env",
        "PYTHONPATH=/opt/flashback/src",
        "PYTHONDONTWRITEBYTECODE=1",
        "DEBIAN_FRONTEND=noninteractive",
    ]
    return subprocess.run(
        ["chroot", str(place), *environment, *command],
        check=False, capture_output=True, text=True, env={**os.environ, **PROCESSOR},
    )  # fmt: skip


@pytest.fixture(scope="session")
def running(system: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the system with a place to write to, the engine's tests and what they need in Python."""
    upper, place = tmp_path_factory.mktemp("upper"), tmp_path_factory.mktemp("system")
    for name in ("files", "work"):
        (upper / name).mkdir()
    layers = f"lowerdir={system},upperdir={upper}/files,workdir={upper}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", str(place)], check=True)
    try:
        shutil.copytree(PROJECT / "files/flashback", place / "opt/flashback")
        (place / "etc/resolv.conf").unlink()
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", place / "etc")
        subprocess.run(["mount", "-t", "proc", "proc", str(place / "proc")], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place / "tmp")], check=True)
        packages = "python3-pytest python3-hypothesis"
        for words in ("update --error-on=any", f"install --yes --no-install-recommends {packages}"):
            done = on_the_board(place, "apt-get", "--quiet", *words.split())
            assert done.returncode == 0, done.stdout + done.stderr
        yield place
    finally:
        for below in ("tmp", "proc", ""):
            subprocess.run(["umount", str(place / below)], check=False)


def test_its_programs_run_on_the_boards_processor(running: Path) -> None:
    said = on_the_board(running, "python3", "-c", "import platform; print(platform.machine())")
    assert said.stdout.startswith("armv5"), said
    for program in ("rsync", "btrfs", "smartctl", "ssh"):
        assert on_the_board(running, program, "--version" if program != "ssh" else "-V").returncode == 0


def test_the_engines_own_tests_pass_on_it(running: Path) -> None:
    tests = [f"/opt/flashback/tests/{name}.py" for name in ENGINE]
    alone = ["--noconftest", "-p", "no:cacheprovider", "--rootdir=/opt/flashback"]
    done = on_the_board(running, "python3", "-m", "pytest", "-q", *alone, *tests)
    print(done.stdout[-500:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
