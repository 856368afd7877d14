"""Ctrl-C, a second run beside the first, and other ways in which a run does not end well."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT, Bench, Run, environment
from workbench import processes, virtual_plug


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Bench]:
    """Another plug, not built yet."""
    folder = tmp_path / "plug"
    yield Bench(folder, environment(folder))
    virtual_plug.cut_power(folder)


def begin(bench: Bench, playbook: str) -> subprocess.Popen[bytes]:
    """Start a playbook as from a terminal: Ctrl-C goes to its process group."""
    return subprocess.Popen(
        ["ansible-playbook", playbook],
        cwd=PROJECT, env=bench.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def mentioning(folder: Path) -> list[int]:
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if processes.mentions(int(process.name), str(folder)) and int(process.name) != os.getpid()
    ]


def wait_for(condition: object, seconds: float = 120) -> None:
    assert callable(condition)
    assert processes.eventually(condition, seconds)


def interrupt(run: subprocess.Popen[bytes]) -> None:
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(30) != 0


def test_ctrl_c_while_the_stick_is_flashed(bench: Bench, first_run: Run, other: Bench) -> None:
    run = begin(other, "playbooks/flash.yml")
    wait_for((other.folder / "stick.img.unfinished").exists)
    interrupt(run)
    wait_for(lambda: not mentioning(other.folder), 20)
    assert not (other.folder / "stick.img").exists()
    other.play("playbooks/flash.yml")
    assert (other.folder / "stick.img").exists()
    assert not (other.folder / "stick.img.unfinished").exists()


def test_ctrl_c_while_the_system_is_built(bench: Bench, other: Bench, tmp_path: Path) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    other.environment.update(XDG_CACHE_HOME=str(cache), TMPDIR=str(scratch))
    run = begin(other, "playbooks/flash.yml")
    wait_for(lambda: any(scratch.glob("mmdebstrap.*/usr")))
    interrupt(run)
    wait_for(lambda: not [*cache.rglob("*.unfinished"), *scratch.glob("mmdebstrap.*")], 60)
    wait_for(lambda: not mentioning(cache), 20)
    assert not list(cache.rglob("rootfs.tar"))
    assert str(scratch) not in Path("/proc/mounts").read_text()


def test_ctrl_c_while_the_plug_boots(bench: Bench, first_run: Run, other: Bench) -> None:
    other.play("playbooks/flash.yml")
    run = begin(other, "playbooks/boot.yml")
    wait_for(lambda: virtual_plug.pid_of(other.folder) is not None)
    interrupt(run)
    wait_for(lambda: not mentioning(other.folder), 20)
    other.play("playbooks/boot.yml")
    assert virtual_plug.pid_of(other.folder) is not None


def test_a_second_run_beside_the_first_is_refused_in_one_line(
    bench: Bench, first_run: Run, other: Bench
) -> None:
    run = begin(other, "playbooks/flash.yml")
    wait_for((other.folder / "run.json").exists)
    second = other.play("playbooks/flash.yml", expect=2)
    assert f"Another run (process {run.pid}) is at work on the plug in {other.folder}" in second.output
    interrupt(run)


def test_an_occupied_port_is_named(bench: Bench, first_run: Run, other: Bench) -> None:
    other.play("playbooks/flash.yml")
    with socket.create_server(("127.0.0.1", int(other.environment["PLUG_SSH_PORT"]))):
        refused = other.play("playbooks/boot.yml", expect=2)
    assert "can not be used (Address already in use). End the program that has it, or set" in refused.output
    assert virtual_plug.pid_of(other.folder) is None


def test_an_unreachable_mirror_is_named(bench: Bench, other: Bench, tmp_path: Path) -> None:
    mirror = "http://127.0.0.1:9/debian"
    refused = other.play("playbooks/flash.yml", "-e", f"stick_debian_mirror={mirror}", expect=2)
    assert f"The Debian mirror {mirror} can not be reached" in refused.output
    assert not (other.folder / "stick.img").exists()


def test_a_misspelt_variable_is_named_before_anything_is_touched(bench: Bench, other: Bench) -> None:
    refused = other.play("site.yml", "-e", "backup_disk_fliesystem=ext4", expect=2)
    assert "sets backup_disk_fliesystem for plug, which no role knows" in refused.output
    assert not other.folder.exists()


def test_a_missing_tool_is_named_with_its_remedy(bench: Bench, first_run: Run, other: Bench) -> None:
    other.play("playbooks/flash.yml")
    tools = other.folder.parent / "bin"
    tools.mkdir()
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith("qemu"):
            (tools / program.name).symlink_to(program)
    other.environment["PATH"] = f"{PROJECT / '.venv/bin'}:{tools}"
    refused = other.play("playbooks/boot.yml", expect=2)
    assert "The workbench lacks qemu-system-x86_64. Run `make setup`" in refused.output
