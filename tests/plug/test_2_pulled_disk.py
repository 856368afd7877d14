"""The disk is pulled out in the middle of a backup and returned: nothing lands on the stick, all goes on."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import Bench, Run
from workbench import virtual_plug

LARGE = 8 << 20
UNDER_THE_MOUNT = (
    "mkdir -p /run/view && mount --bind / /run/view && find /run/view/srv/backup -mindepth 1 | wc -l"
    " && lsattr -d /run/view/srv/backup; umount /run/view"
)


def eventually(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(1)


@pytest.fixture(scope="module")
def pulled(bench: Bench, first_run: Run) -> Iterator[int]:
    """Pull the disk while files arrive; the number of snapshots before."""
    noise = random.Random(1)
    new = bench.home / "anna" / "films"
    new.mkdir()
    for number in range(24):
        (new / f"film-{number:02}").write_bytes(noise.randbytes(LARGE))
    before = len(json.loads(bench.on_plug("flashback snapshots --json")))
    with subprocess.Popen(bench.ssh("flashback backup laptop --wait"), stdout=subprocess.DEVNULL) as running:
        arrived = "ls /srv/backup/laptop/home/daily/incoming/anna/films 2>/dev/null | wc -l"
        eventually(lambda: int(bench.on_plug(arrived)) >= 3)
        virtual_plug.pull_disk(bench.folder)
        running.wait(300)
    assert running.returncode != 0
    yield before


def test_the_engine_says_that_the_disk_is_missing(bench: Bench, pulled: int) -> None:
    eventually(lambda: "the backup disk is missing" in bench.on_plug("flashback status || true"))
    assert bench.on_plug("findmnt /srv/backup || true") == ""


def test_nothing_is_written_onto_the_stick(bench: Bench, pulled: int) -> None:
    bench.on_plug("flashback backup laptop --wait >/dev/null 2>&1 || true")
    number, flags, _ = bench.on_plug(UNDER_THE_MOUNT).split()
    assert number == "0"
    assert "i" in flags
    assert "Operation not permitted" in bench.on_plug("touch /srv/backup/lost 2>&1 || true")


def test_the_returned_disk_is_mounted_and_the_next_pass_completes(bench: Bench, pulled: int) -> None:
    virtual_plug.return_disk(bench.folder)
    eventually(lambda: bench.on_plug("findmnt --noheadings --output TARGET /srv/backup || true") != "")
    bench.on_plug("flashback backup laptop --wait")
    assert len(json.loads(bench.on_plug("flashback snapshots --json"))) == pulled + 1
    films = "ls /srv/backup/laptop/home/daily/2*/anna/films | grep -c film"
    assert int(bench.on_plug(films)) == 24
    assert "is missing" not in bench.on_plug("flashback status || true")
