"""A disk that is backed up and one day another one is mounted in its place."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from flashback.history import History

from .disks import mounted
from .rig import Rig


def fill(disk: Path, count: int, word: str) -> None:
    for number in range(count):
        (disk / f"{word}{number}").write_text(word * number)


def test_another_disk_mounted_at_the_source_is_held_back(rig: Rig, tmp_path: Path) -> None:
    disks = tmp_path / "one", tmp_path / "other"
    for each in disks:
        each.mkdir()
    rig.configure(f"{{local: true, source: {disks[0]}/disk}}")
    with mounted("ext4", disks[0]) as disk:
        fill(disk, 10, "a")
        first = rig.back_up()
    with mounted("ext4", disks[0]) as disk:
        fill(disk, 8, "a")
        fill(disk, 30, "b")
        done = rig.call("backup", "laptop")
        assert done.returncode == 1
        assert "another file system" in done.stdout
        assert rig.complete() == [first]


def test_a_history_of_the_first_version_is_read_and_carried_on(rig: Rig) -> None:
    (rig.source / "a").write_text("a")
    rig.back_up()
    file = rig.disk / ".flashback/history.db"
    with sqlite3.connect(file) as db:
        db.execute("ALTER TABLE runs DROP COLUMN source")
        db.execute("PRAGMA user_version = 1")
    assert len(History(rig.disk).runs(None, 10)) == 1
    rig.back_up()
    assert len(History(rig.disk).runs(None, 10)) == 2
