"""What lies beside an inventory is not taken for one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_a_key_beside_an_inventory_is_no_host(tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(PROJECT / "inventories/example", home)
    (home / "secrets/attic").mkdir(parents=True)
    (home / "secrets/attic/backup_disk_key").write_text("S3cretWord\n")
    argv = ["ansible-inventory", "-i", str(home), "--list"]
    said = subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert "S3cretWord" not in said.stdout + said.stderr
    assert set(json.loads(said.stdout)["_meta"]["hostvars"]) == {"attic", "anna", "ben", "web"}
