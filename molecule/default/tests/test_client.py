"""The client's container, after the playbooks."""

from __future__ import annotations

from typing import Any

testinfra_hosts = ["podman://backup-plug-test-client"]


def test_the_plugs_key_can_read_and_nothing_else(host: Any) -> None:
    (line,) = host.check_output("cat /var/lib/flashback-reader/.ssh/authorized_keys").splitlines()
    allowed = 'command="sudo -n /usr/bin/rrsync -ro /"'
    assert line.startswith(f'restrict,from="10.231.77.0/24,fd77:231:77::/64",{allowed} ssh-ed25519 ')
    assert line.endswith(" flashback@plug")


def test_the_account_can_run_that_one_command_as_root_and_no_other(host: Any) -> None:
    def as_account(words: str) -> Any:
        return host.run(f"setpriv --reuid flashback-reader --regid flashback-reader --clear-groups {words}")

    assert as_account("sudo -n /usr/bin/id").rc != 0
    assert as_account("sudo -n /usr/bin/rrsync /").rc != 0
    assert as_account("sudo -n /usr/bin/rrsync -ro /root").rc != 0
    assert "Not invoked via sshd" in as_account("sudo -n /usr/bin/rrsync -ro /").stderr
    assert host.user("flashback-reader").password == "*"  # noqa: S105 - no password fits


def test_nothing_was_written_by_the_plug(host: Any) -> None:
    assert not host.file("/evil").exists


def test_the_read_only_server_is_there(host: Any) -> None:
    assert host.file("/usr/bin/rrsync").mode & 0o111
