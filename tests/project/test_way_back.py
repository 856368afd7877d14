"""The way back: what was saved comes back, what was not there goes, and an armed one is not replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible_plugins import load

way_back = load("modules/way_back.py")


def test_files_come_back_with_their_modes_and_the_commands_are_run(tmp_path: Path) -> None:
    folder, kept, made = tmp_path / "armed/ssh", tmp_path / "it's kept", tmp_path / "made"
    kept.write_text("old")
    kept.chmod(0o640)
    way_back.save(folder, [str(kept), str(made)], [f"touch '{tmp_path}/reloaded'"])
    kept.write_text("new")
    kept.chmod(0o600)
    made.write_text("new")
    subprocess.run(["sh", str(folder / "script")], check=True)
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("old", 0o640)
    assert not made.exists()
    assert (tmp_path / "reloaded").exists()
    assert not folder.exists()


def test_what_an_interrupted_run_has_saved_is_kept(tmp_path: Path) -> None:
    folder, file = tmp_path / "armed/ssh", tmp_path / "file"
    file.write_text("worked")
    way_back.save(folder, [str(file)], [])
    file.write_text("unproven")
    way_back.save(folder, [str(file)], [])
    assert (folder / "0").read_text() == "worked"
