"""What happens between the backups: checksums, verification, drills, and how the status tells of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from flashback import chores, drill, verify
from flashback import config as configuration
from flashback.model import Config

from .disks import mounted
from .rig import Rig, tree, until
from .test_verify import away, flip


def document(rig: Rig) -> dict[str, Any]:
    made = json.loads((rig.run_dir / "status.json").read_text())
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize(
    ("clock", "last", "due"),
    [
        ("2026-11-23 02:59", None, False),
        ("2026-11-23 03:00", None, True),
        ("2026-11-23 03:00", "2026-11-22 03:10", True),
        ("2026-11-23 23:00", "2026-11-23 03:10", False),
    ],
)
def test_one_slice_a_night(clock: str, last: str | None, due: bool) -> None:
    config = Config(Path("/none"), Path("/none"), verify_at=180)
    local = datetime.fromisoformat(clock).replace(tzinfo=timezone.utc)
    before = datetime.fromisoformat(last).replace(tzinfo=timezone.utc) if last else None
    assert chores.night_has_come(config, before, local) is due


def test_after_a_backup_the_daemon_seals_verifies_and_drills(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    with rig.config.open("a") as file:
        file.write('verify: {at: "00:00"}\n')
    daemon = rig.start("run")
    until(lambda: list(rig.disk.glob(".flashback/manifests/laptop/home/daily/*.gz")), 60)
    until((rig.disk / ".flashback/care.json").exists, 60)
    daemon.send_signal(1)
    until(lambda: document(rig)["drills"], 60)
    (drilled,) = document(rig)["drills"]
    assert (drilled["host"], drilled["good"]) == ("laptop", True)
    assert document(rig)["verification"]["damaged"] == 0
    assert document(rig)["verification"]["verified_at"] is not None
    daemon.terminate()
    assert daemon.wait(30) == 0


def test_damage_is_a_problem_until_it_is_mended(rig: Rig) -> None:
    (rig.source / "a").write_text("precious")
    snapshot = rig.back_up()
    assert rig.call("chores").returncode == 0
    flip(snapshot / "a")
    (rig.source / "a").unlink()
    done = rig.call("verify", "--all")
    assert done.returncode == 1
    assert "laptop/home" in done.stdout
    daemon = rig.start("run")
    until(lambda: (rig.run_dir / "status.json").exists() and document(rig)["verification"]["damaged"] == 1)
    until(lambda: document(rig)["engine"]["state"] == "IDLE")
    assert "stored files are damaged" in rig.call("status").stdout
    daemon.terminate()


@pytest.fixture
def on_btrfs(rig: Rig) -> Iterator[Rig]:
    with mounted("btrfs", rig.top) as disk:
        assert disk == rig.disk
        yield rig


def in_writable(snapshot: Path, work: Any) -> None:
    """Do something to a read-only subvolume, as a failing disk would."""
    for word in ("false", "true"):
        subprocess.run(["btrfs", "property", "set", "-f", "-ts", str(snapshot), "ro", word], check=True)
        if word == "false":
            work(snapshot)


def test_on_btrfs_rot_is_mended_in_every_snapshot(on_btrfs: Rig) -> None:
    rig = on_btrfs
    (rig.source / "sub").mkdir()
    (rig.source / "sub/a").write_bytes(os.urandom(50_000))
    for _ in range(3):
        rig.back_up()
    assert rig.call("chores").returncode == 0
    config = configuration.load(rig.config)
    before = [tree(path) for path in rig.complete()]
    for path in rig.complete()[1:]:
        in_writable(path, lambda at: flip(at / "sub/a"))
    assert verify.run(away(config), everything=True).open == ()
    assert [tree(path) for path in rig.complete()] == before
    for path in rig.complete():
        in_writable(path, lambda at: flip(at / "sub/a"))
    assert [each.reason for each in verify.run(config, everything=True).open] == []
    assert [tree(path) for path in rig.complete()] == before
    assert drill.run(config, "laptop").good
    assert verify.run(config, everything=True).open == ()
