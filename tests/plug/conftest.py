"""One virtual plug for all tests of this folder, in a temporary folder and on ports of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
from workbench import sample_client, virtual_plug

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """What a playbook printed and what it changed."""

    output: str
    seconds: float
    status: int

    @property
    def changed(self) -> dict[str, int]:
        """Number of changed tasks of each host."""
        return {
            host: int(count)
            for host, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.output, re.M)
        }

    @property
    def changed_tasks(self) -> list[str]:
        """Names of the tasks that changed something."""
        return re.findall(r"^TASK \[([^\]]+)\] \**\n(?:(?!TASK).*\n)*?changed:", self.output, re.M)


@dataclass(frozen=True)
class Bench:
    """The workbench with its virtual plug."""

    folder: Path
    environment: dict[str, str]

    def play(self, *arguments: str, expect: int | None = 0) -> Run:
        """Run a playbook of the project."""
        return self.run("ansible-playbook", *arguments, expect=expect)

    def run(self, *command: str, expect: int | None = 0) -> Run:
        """Run a command in the project's folder."""
        begun = time.monotonic()
        done = subprocess.run(
            command,
            cwd=PROJECT, env=self.environment, check=False, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if expect is not None:
            assert done.returncode == expect, done.stdout
        run = Run(done.stdout, time.monotonic() - begun, done.returncode)
        print(f"{' '.join(command)}: {run.seconds:.0f} s", file=sys.__stdout__, flush=True)
        return run

    def ssh(self, command: str) -> list[str]:
        """Return the command that runs a command on the plug."""
        return ["ssh", "-F", str(self.folder / "ssh_config"), "plug", command]

    def on_plug(self, command: str, *, expect: int = 0) -> str:
        """Run a shell command on the plug and return what it prints."""
        done = subprocess.run(self.ssh(command), check=False, capture_output=True, text=True)
        assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def fetch(self, source: str, target: Path) -> None:
        """Copy a tree from the plug to the workbench, with all that a file has."""
        shell = f"ssh -F {self.folder / 'ssh_config'}"
        subprocess.run(
            ["rsync", "-aHAXS", "--numeric-ids", "-e", shell, f"plug:{source}/", f"{target}/"], check=True
        )

    @property
    def home(self) -> Path:
        """The sample client's home."""
        return self.folder / "client" / "home"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the default inventory is a plug of these tests."""
    return {
        **os.environ,
        "PLUG_DIR": str(folder),
        "PLUG_SSH_PORT": str(free_port()),
        "PLUG_CLIENT_PORT": str(free_port()),
        "ANSIBLE_NOCOLOR": "1",
    }


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("plug")
    yield Bench(folder, environment(folder))
    virtual_plug.cut_power(folder)
    sample_client.stop(folder / "client")


@pytest.fixture(scope="session")
def first_run(bench: Bench) -> Run:
    """The README's first command, less the set-up."""
    return bench.play("site.yml")


@pytest.fixture
def plug(bench: Bench, first_run: Run) -> Any:
    return testinfra.get_host("ssh://plug", ssh_config=str(bench.folder / "ssh_config"))
