"""The client's container, after the playbooks."""

from __future__ import annotations

from typing import Any

testinfra_hosts = ["podman://backup-plug-test-client"]


def test_the_plugs_key_can_read_and_nothing_else(host: Any) -> None:
    (line,) = host.check_output("cat /root/.ssh/authorized_keys").splitlines()
    assert line.startswith('restrict,from="10.231.77.0/24",command="/usr/bin/rrsync -ro /" ssh-ed25519 ')
    assert line.endswith(" flashback@plug")


def test_nothing_was_written_by_the_plug(host: Any) -> None:
    assert not host.file("/evil").exists


def test_the_read_only_server_is_there(host: Any) -> None:
    assert host.file("/usr/bin/rrsync").mode & 0o111
