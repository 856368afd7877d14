"""What is wrong in an inventory is said in one line, before anything is touched."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
GOOD_CLIENT = {"client_volumes": {"home": {"source": "/home", "jobs": {"daily": {"period": "1d"}}}}}


def played(tmp_path: Path, playbook: str, groups: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Run a playbook that has to fail, and return what it said of the failure."""
    inventory = tmp_path / "hosts.json"
    children = {name: {"hosts": hosts} for name, hosts in groups.items()}
    inventory.write_text(json.dumps({"all": {"children": children}}))
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}.yml"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert "changed=1" not in done.stdout
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("variables", "what"),
    [
        ({"base_hostname": "box"}, "base_hostname"),
        ({"stick_serial": "4C53"}, "stick_serial"),
        ({"backup_disk_id": "WD-1"}, "backup_disk_id"),
    ],
)
def test_two_plugs_that_can_not_be_told_apart(tmp_path: Path, variables: dict[str, str], what: str) -> None:
    said = played(tmp_path, "flash", {"plugs": {"attic": variables, "cellar": variables}})
    assert f"attic and cellar have the same {what}." in said


def test_a_client_without_an_address(tmp_path: Path) -> None:
    said = played(tmp_path, "clients", {"clients": {"anna": {**GOOD_CLIENT, "client_addresses": []}}})
    assert "anna has no client_addresses." in said
    assert "client_addresses: [anna.local]" in said


def test_a_client_that_has_nothing_to_lose(tmp_path: Path) -> None:
    assert "anna has no client_volumes." in played(tmp_path, "clients", {"clients": {"anna": {}}})
