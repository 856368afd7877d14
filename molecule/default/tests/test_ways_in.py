"""The ways into the plug's container, looked at from outside; the tests run on the workbench as root."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["podman://backup-plug-test-plug"]

PROJECT = Path(__file__).resolve().parents[3]
ADDRESSES = ("10.231.77.10", "fd77:231:77::10")


def playbook(*words: str) -> tuple[int, str]:
    """Run the plug's playbook against the container, as somebody at the workbench would."""
    inventory = PROJECT / "inventories/molecule"
    argv = ["ansible-playbook", "-i", str(inventory), "playbooks/plug.yml", *words]
    plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False, env=plain)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def open_ports(address: str) -> set[int]:
    argv = [
        "nmap",
        "-n",
        "-Pn",
        "-p-",
        "-T5",
        "--min-rate",
        "4000",
        "--max-retries",
        "1",
        "-oG",
        "-",
        address,
    ]
    if ":" in address:
        argv.insert(1, "-6")
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return {int(port) for port in re.findall(r"(\d+)/open/tcp", said)}


def listener(host: Any, port: int) -> None:
    """Let something listen on all addresses of the plug."""
    script = (
        "import socket, time; s = socket.socket(socket.AF_INET6); s.setsockopt(41, 26, 0);"
        f" s.bind(('::', {port})); s.listen(); time.sleep(120)"
    )
    unit = f"listener-{port}"
    host.run(f"systemctl stop {unit}")
    host.check_output(f'systemd-run --collect --unit={unit} python3 -c "{script}"')


@pytest.mark.parametrize("address", ADDRESSES)
def test_only_ssh_is_open_whatever_listens(host: Any, address: str) -> None:
    listener(host, 8080)
    assert "8080" in host.check_output("ss -Hltn")
    assert open_ports(address) == {22}


def test_ping_and_neighbours_are_answered(host: Any) -> None:
    for address in ADDRESSES:
        subprocess.run(["ping", "-c", "1", "-W", "5", address], check=True, capture_output=True)


def test_nothing_is_forwarded(host: Any) -> None:
    chain = host.check_output("nft list chain inet plug forward")
    assert "policy drop" in chain


def test_an_audit_of_ssh_has_nothing_to_say(host: Any) -> None:
    done = subprocess.run(
        ["ssh-audit", "--no-colors", "--level=warn", "--skip-rate-test", ADDRESSES[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("role", "variables", "file"),
    [
        ("ssh", {"ssh_extra_settings": ["AllowUsers nobody"]}, "/etc/ssh/sshd_config.d/10-plug.conf"),
        ("firewall", {"firewall_open": []}, "/etc/nftables.conf"),
    ],
)
def test_what_would_lock_everybody_out_is_taken_back(
    host: Any, role: str, variables: dict[str, object], file: str
) -> None:
    before = host.file(file).content_string
    code, said = playbook("--tags", role, "--extra-vars", json.dumps(variables))
    assert code == 2, said
    assert "were taken back, the old ones are in force" in said
    assert "A second connection is refused" in said
    assert host.file(file).content_string == before
    assert not host.file(f"/run/way-back/{role}").exists
    code, said = playbook("--tags", role)
    assert code == 0, said
    assert "changed=0" in said


def test_settings_that_sshd_can_not_read_are_not_even_written(host: Any) -> None:
    before = host.file("/etc/ssh/sshd_config.d/10-plug.conf").content_string
    nonsense = json.dumps({"ssh_extra_settings": ["Nonsense yes"]})
    code, said = playbook("--tags", "ssh", "--extra-vars", nonsense)
    assert code == 2, said
    assert "bad configuration option" in said
    assert host.file("/etc/ssh/sshd_config.d/10-plug.conf").content_string == before


def test_the_way_back_is_taken_without_ansible(host: Any) -> None:
    """As when the one connection breaks in the middle."""
    host.check_output("sh -c 'echo old > /root/setting'")
    words = "name=test state=armed files=/root/setting commands='touch /root/reloaded' seconds=3"
    argv = ["ansible", "-i", str(PROJECT / "inventories/molecule"), "plug", "-m", "way_back", "-a", words]
    subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True, env=dict(os.environ))
    host.check_output("sh -c 'echo new > /root/setting'")
    deadline = time.monotonic() + 30
    while not host.file("/root/reloaded").exists and time.monotonic() < deadline:
        time.sleep(0.5)
    assert host.file("/root/setting").content_string == "old\n"
    assert not host.file("/run/way-back/test").exists
    host.check_output("rm /root/setting /root/reloaded")
