"""A client at the end of a slow way, and one that sleeps: two machines with a real network between them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .network import Network, network
from .rig import CLI, Rig, until

# Cable 0 is quick, cable 1 is like a tunnel over a phone: 160 ms there and back.
DELAYS = (0.0, 0.08)
QUICK, SLOW = "10.77.0.2", "10.77.1.2"
SLEEPER = """
import os, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
    ear.bind(("", 9))
    print("asleep", flush=True)
    while ear.recv(200) != b"\\xff" * 6 + bytes.fromhex("021122334455") * 16:
        pass
os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-f", sys.argv[1]])
"""


@pytest.fixture
def joined() -> Iterator[Network]:
    with network(DELAYS) as made:
        yield made


@contextmanager
def client(rig: Rig, joined: Network, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the client's sshd, or what takes its place, in the client's namespace."""
    config = rig.top / "far_sshd_config"
    text = (rig.top / "sshd_config").read_text()
    config.write_text(text.replace("ListenAddress 127.0.0.1", "ListenAddress 0.0.0.0"))
    started = [*words, str(config)] if words else ["/usr/sbin/sshd", "-D", "-f", str(config)]
    child = subprocess.Popen(
        [*joined.inside(joined.client), *started],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield child
    finally:
        child.terminate()
        child.communicate()


def back_up(
    rig: Rig, joined: Network, addresses: str, settings: str = "{}", host: str = ""
) -> subprocess.CompletedProcess[str]:
    rig.configure(settings)
    text = rig.config.read_text().replace("addresses: [127.0.0.1]", f"addresses: [{addresses}]\n{host}")
    rig.config.write_text(text)
    return subprocess.run(
        [*joined.inside(joined.plug), *CLI, "-c", str(rig.config), "backup", "laptop"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_job_waits_for_a_better_way_and_takes_it(rig: Rig, joined: Network) -> None:
    (rig.source / "a").write_bytes(b"x" * 300_000)
    plug = joined.inside(joined.plug)
    with client(rig, joined):
        ready = ["ssh-keyscan", "-T", "1", "-p", str(rig.port), SLOW]
        until(lambda: subprocess.run([*plug, *ready], capture_output=True, check=False).stdout)
        waits = back_up(rig, joined, SLOW, "{max_rtt_ms: 100}")
        assert waits.returncode == 75, waits.stdout + waits.stderr
        assert f"{SLOW} port {rig.port} answers in 16" in waits.stdout
        assert "allowed are 100 ms (max_rtt_ms)" in waits.stdout
        outside = back_up(rig, joined, SLOW, "{only_networks: [10.77.0.0/24]}")
        assert outside.returncode == 75
        assert "is outside of 10.77.0.0/24 (only_networks)" in outside.stdout
        assert rig.complete() == []
        document = json.loads((rig.run_dir / "status.json").read_text())
        assert document["jobs"][0]["present"] is True
        quick = back_up(rig, joined, f"{SLOW}, {QUICK}", "{max_rtt_ms: 100}")
        assert quick.returncode == 0, quick.stdout + quick.stderr
        begun = time.monotonic()
        patient = back_up(rig, joined, SLOW, "{max_rtt_ms: 400}")
        assert patient.returncode == 0, patient.stdout + patient.stderr
        assert time.monotonic() - begun > 5 * 2 * DELAYS[1]
    assert len(rig.complete()) == 2


def test_a_client_that_sleeps_is_woken_over_the_network_and_backed_up(rig: Rig, joined: Network) -> None:
    (rig.source / "a").write_text("1")
    with client(rig, joined, sys.executable, "-c", SLEEPER) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "asleep\n"
        assert back_up(rig, joined, QUICK).returncode == 75
        awake = back_up(rig, joined, QUICK, host="    mac: '02:11:22:33:44:55'")
        assert awake.returncode == 0, awake.stdout + awake.stderr
    (snapshot,) = rig.complete()
    assert (snapshot / "a").read_text() == "1"
