"""A misspelt variable of a role is found before anything is touched."""

from __future__ import annotations

from pathlib import Path

from ansible_plugins import load

PROJECT = Path(__file__).resolve().parents[2]
plugin = load("lookup/unknown_role_variables.py")
KNOWN = {"base": {"base_hostname"}, "ssh": {"ssh_keys"}}


def test_a_misspelt_name_is_found() -> None:
    assert plugin.unknown(["base_hostnme", "base_hostname"], KNOWN) == ["base_hostnme"]


def test_names_without_a_roles_prefix_are_nobodys_business() -> None:
    assert plugin.unknown(["ansible_host", "sshd_x", "my_base_thing", "__base_packages"], KNOWN) == []


def test_the_projects_own_roles_are_read() -> None:
    known = plugin.known_variables(PROJECT / "roles")
    assert "backup_disk_id" in known["backup_disk"]
