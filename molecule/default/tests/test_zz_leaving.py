"""A client leaves, and comes back by one pasted command; last, for it changes the containers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import testinfra

testinfra_hosts = ["podman://backup-plug-test-plug"]

PROJECT = Path(__file__).resolve().parents[3]
PINNED = "/var/lib/flashback/.ssh/known_hosts"


def test_a_client_leaves_without_a_trace_and_keeps_its_snapshots(host: Any) -> None:
    client = testinfra.get_host("podman://backup-plug-test-client")
    inventory = str(PROJECT / "inventories/molecule")
    argv = ["ansible-playbook", "-i", inventory, "playbooks/clients.yml", "-e", "client_state=absent"]
    subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True)
    assert not client.user("flashback-reader").exists
    assert not client.file("/var/lib/flashback-reader").exists
    assert not client.file("/etc/sudoers.d/backup-client").exists
    assert "client" not in host.file(PINNED).content_string
    assert "client/home" in host.check_output("flashback snapshots")
    again = subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert "changed=0" in again.stdout


def test_one_pasted_command_and_its_fingerprint_bring_it_back(host: Any) -> None:
    pasted, _, _ = host.check_output("flashback enroll client").rpartition("\n\n")
    shell = ["podman", "exec", "-i", "backup-plug-test-client", "sh"]
    shown = subprocess.run(shell, input=pasted, capture_output=True, text=True, check=True).stdout
    fingerprint = shown.split()[1]
    assert host.run("flashback enroll client --pin SHA256:somebodyelse").rc == 1
    said = host.check_output(f"flashback enroll client --pin {fingerprint}")
    assert "and /home can be read there" in said
    assert "the key can read and nothing else" in host.check_output("flashback doors")
    host.check_output("flashback backup client --wait")


def test_an_account_that_belongs_to_somebody_is_neither_changed_nor_removed(host: Any) -> None:
    client = testinfra.get_host("podman://backup-plug-test-client")
    client.check_output("useradd --create-home --comment 'Anna Person' --shell /bin/bash person")
    client.check_output("sh -c 'echo mine > /home/person/letter'")
    before = client.check_output("getent passwd person; getent shadow person")
    keys = client.file("/home/person/.ssh/authorized_keys")
    argv = ["ansible-playbook", "-i", str(PROJECT / "inventories/molecule"), "playbooks/clients.yml"]
    for state in ("present", "absent"):
        words = ["-e", "client_user=person", "-e", f"client_state={state}"]
        subprocess.run([*argv, *words], cwd=PROJECT, check=True, capture_output=True)
        assert client.check_output("getent passwd person; getent shadow person") == before
        assert client.file("/home/person/letter").content_string == "mine\n"
        assert ("flashback@plug" in keys.content_string) == (state == "present")
