"""The power goes in the middle of a backup: no complete snapshot suffers, and the next pass completes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trees
from conftest import Bench, Run
from workbench import virtual_plug

LARGE_FILES = 24
LARGE = 8 << 20
SUMS = (
    "cd /srv/backup/laptop/home/daily && find 2* -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"
)
# Not the number of links (%n): it grows with every snapshot that shares a file.
STATS = "cd /srv/backup/laptop/home/daily && find 2* -printf '%p %m %U %G %T@ %s %y %l\\n' | sort | sha256sum"


def status(bench: Bench) -> dict[str, Any]:
    document = json.loads(bench.on_plug("cat /run/flashback/status.json"))
    assert isinstance(document, dict)
    return document


def snapshots(bench: Bench) -> list[str]:
    return [snapshot["name"] for snapshot in json.loads(bench.on_plug("flashback snapshots --json"))]


@pytest.fixture(scope="module")
def after_the_cut(bench: Bench, first_run: Run) -> Iterator[tuple[list[str], str, str]]:
    """Change the client, begin a backup, cut the power while files arrive, and boot again."""
    noise = random.Random(2014)
    new = bench.home / "anna" / "new"
    new.mkdir()
    for number in range(LARGE_FILES):
        (new / f"film-{number:02}").write_bytes(noise.randbytes(LARGE))
    (bench.home / "anna" / "odd" / "-rf").chmod(0o600)
    before = snapshots(bench), bench.on_plug(SUMS), bench.on_plug(STATS)
    with subprocess.Popen(bench.ssh("flashback backup laptop --wait"), stdout=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 120
        while (
            int(bench.on_plug("ls /srv/backup/laptop/home/daily/incoming/anna/new 2>/dev/null | wc -l")) < 3
        ):
            assert running.poll() is None, "the backup ended before the power was cut"
            assert time.monotonic() < deadline
        virtual_plug.cut_power(bench.folder)
    bench.play("playbooks/boot.yml")
    yield before


def test_the_complete_snapshots_are_the_same_bit_by_bit(
    bench: Bench, after_the_cut: tuple[list[str], str, str]
) -> None:
    assert (snapshots(bench), bench.on_plug(SUMS), bench.on_plug(STATS)) == after_the_cut


def test_the_engine_comes_back_by_itself(bench: Bench, after_the_cut: tuple[list[str], str, str]) -> None:
    deadline = time.monotonic() + 60
    while bench.on_plug("systemctl is-active flashback || true").strip() != "active":
        assert time.monotonic() < deadline
        time.sleep(1)
    assert status(bench)["disk"]["present"]


def test_the_next_pass_completes_what_was_interrupted(
    bench: Bench, after_the_cut: tuple[list[str], str, str], tmp_path: Path
) -> None:
    bench.on_plug("flashback backup laptop --wait")
    assert len(snapshots(bench)) == len(after_the_cut[0]) + 1
    found = bench.on_plug("ls /srv/backup/laptop/home/daily").split()
    # The next backup may be in preparation already.
    assert [name for name in found if not name.startswith("prepar")] == snapshots(bench)
    bench.on_plug("rm -rf /root/restored && flashback restore laptop/home --to /root/restored")
    bench.fetch("/root/restored", tmp_path / "restored")
    assert trees.describe(tmp_path / "restored") == trees.describe(bench.home)


def test_the_older_snapshots_are_still_the_same(
    bench: Bench, after_the_cut: tuple[list[str], str, str]
) -> None:
    older = " ".join(after_the_cut[0])
    assert bench.on_plug(SUMS.replace("2*", older)) == after_the_cut[1]


def test_no_program_is_left_when_the_plug_is_stopped(
    bench: Bench, after_the_cut: tuple[list[str], str, str]
) -> None:
    subprocess.run(["workbench", str(bench.folder), "stop"], check=True)
    ours = str(bench.folder).encode()
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if (
            ours in command
            and int(process.name) != os.getpid()
            and b"ssh: " not in command
            and b"[mux]" not in command
        ):
            left.append(command)
    assert left == []
