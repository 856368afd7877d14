"""What every test gets, and a plain refusal to run where it could not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from .rig import Rig, running

# A busy machine is slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

TOOLS = (
    "rsync",
    "rrsync",
    "ssh",
    "ssh-keygen",
    "ssh-keyscan",
    "setfacl",
    "setpriv",
    "ionice",
    "mkfs.btrfs",
    "mkfs.xfs",
    "groff",
    "strace",
    "ip",
    "unzip",
    "/usr/sbin/sshd",
)


def pytest_sessionstart() -> None:
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        pytest.exit(
            f"These tests need {', '.join(missing)}: "
            "install rsync openssh-server acl attr btrfs-progs xfsprogs groff-base unzip strace iproute2",
            returncode=4,
        )
    if os.geteuid() != 0:
        pytest.exit("These tests keep owners and devices: run them as root", returncode=4)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with running(tmp_path) as made:
        yield made
