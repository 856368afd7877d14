"""Finding a client: several addresses, strangers, slow ways, other protocols, sleeping machines. All real."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flashback import process, reach, transfer, wake
from flashback.model import Config, Job
from flashback.reach import Kind

from .rig import Rig, keygen, listens, until

pulse = process.no_pulse
# RFC 5737: belongs to nobody and answers nothing.
NOBODY = "192.0.2.1"


def job(rig: Rig, *addresses: str, **settings: object) -> Job:
    made = Job("laptop", "home", "daily", "/", addresses, port=rig.port)
    return dataclasses.replace(made, **settings)  # type: ignore[arg-type]


def look(rig: Rig, *addresses: str, **settings: object) -> reach.Reach:
    return reach.look(job(rig, *addresses, **settings), rig.top / "known_hosts")


@contextmanager
def stranger(rig: Rig, address: str) -> Iterator[None]:
    """Another machine at another address on the same port: an sshd with a key of its own."""
    keygen(rig.top / "strange")
    (rig.top / "strange_config").write_text(
        f"Port {rig.port}\nListenAddress {address}\nHostKey {rig.top}/strange\nPidFile none\nUsePAM no\n"
    )
    sshd = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-f", str(rig.top / "strange_config")], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: listens(address, rig.port))
        yield
    finally:
        sshd.terminate()
        sshd.wait()


def test_a_dead_address_before_the_good_one_costs_little(rig: Rig) -> None:
    begun = time.monotonic()
    found = look(rig, NOBODY, "192.0.2.2", "127.0.0.1")
    assert (found.kind, found.address) == (Kind.REACHABLE, "127.0.0.1")
    assert time.monotonic() - begun < reach.CONNECT


def test_a_name_is_looked_up(rig: Rig) -> None:
    assert look(rig, "localhost").address == "127.0.0.1"
    assert "no-such-name.invalid has no address" in look(rig, "no-such-name.invalid").reason


def test_nobody_there_names_every_address(rig: Rig) -> None:
    found = look(rig, NOBODY, "127.0.0.3")
    assert found.kind is Kind.AWAY
    assert NOBODY in found.reason
    assert "127.0.0.3" in found.reason


def test_a_stranger_at_one_address_is_reported_and_the_client_found_at_another(rig: Rig) -> None:
    with stranger(rig, "127.0.0.2"):
        found = look(rig, "127.0.0.2", "127.0.0.1")
        assert (found.kind, found.address) == (Kind.REACHABLE, "127.0.0.1")
        assert "127.0.0.2" in found.warnings[0]
        assert "another host key" in found.warnings[0]


def test_a_stranger_alone_is_refused(rig: Rig) -> None:
    with stranger(rig, "127.0.0.2"):
        found = look(rig, "127.0.0.2")
    assert found.kind is Kind.WRONG_MACHINE


def test_a_way_outside_the_networks_waits(rig: Rig) -> None:
    found = look(rig, "127.0.0.1", only_networks=("192.168.1.0/24", "fd00::/8"))
    assert found.kind is Kind.SLOW_PATH
    assert "outside of 192.168.1.0/24, fd00::/8" in found.reason
    assert look(rig, "127.0.0.1", only_networks=("127.0.0.0/8",)).kind is Kind.REACHABLE


def test_a_slow_way_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(rig, "127.0.0.1", max_rtt_ms=1000).kind is Kind.REACHABLE
    # Loopback cannot be made slow here: no answer is quicker than this limit.
    place = reach.Place(socket.AF_INET, "127.0.0.1", rig.port, ("127.0.0.1", rig.port))
    assert "answers in" in reach._obstacle(job(rig, max_rtt_ms=0), place, 5000.0, pulse)


def test_a_local_job_needs_no_way(rig: Rig) -> None:
    assert look(rig, local=True).kind is Kind.REACHABLE


@contextmanager
def rsync_daemon(rig: Rig) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (rig.top / "rsyncd.conf").write_text(
        f"address = 127.0.0.1\nport = {port}\nuse chroot = no\nuid = root\ngid = root\n"
        f"[pub]\npath = {rig.source}\nread only = yes\n"
    )
    daemon = subprocess.Popen(
        ["rsync", "--daemon", "--no-detach", f"--config={rig.top}/rsyncd.conf"], stdin=subprocess.DEVNULL
    )
    try:
        until(lambda: listens("127.0.0.1", port))
        yield port
    finally:
        daemon.terminate()
        daemon.wait()


def test_a_module_of_an_rsync_daemon_is_backed_up(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    with rsync_daemon(rig) as port:
        rig.configure(f"{{source: 'rsync://127.0.0.1:{port}/pub/'}}")
        assert (rig.back_up() / "a").read_text() == "1"
        rig.configure(f"{{source: 'rsync://127.0.0.1:{port}/gone/', removable: true}}")
        assert rig.call("backup", "laptop").returncode == 75
    assert rig.call("backup", "laptop").returncode == 75
    assert len(rig.complete()) == 1


def test_a_pattern_makes_each_match_a_source(rig: Rig) -> None:
    for name in ("one", "two [x]"):
        (rig.source / "sticks" / name).mkdir(parents=True)
        (rig.source / "sticks" / name / "a").write_text(name)
    rig.configure("{source: '/sticks/*'}")
    assert sorted(path.name for path in rig.back_up().iterdir()) == ["one", "two [x]"]
    rig.configure(f"{{source: '{rig.source}/sticks/*', local: true}}")
    assert sorted(path.name for path in rig.back_up().iterdir()) == ["one", "two [x]"]
    rig.configure(f"{{source: '{rig.source}/none*', local: true, removable: true}}")
    assert rig.call("backup", "laptop").returncode == 75
    rig.configure("{source: '/none*', removable: true}")
    assert rig.call("backup", "laptop").returncode == 75


def test_patterns_sizes_and_a_file_in_a_folder_leave_out(rig: Rig) -> None:
    (rig.source / "big").write_bytes(b"x" * 3000)
    (rig.source / "private").mkdir()
    (rig.source / "private/.nobackup").write_text("*\n")
    (rig.source / "private/a").write_text("1")
    (rig.source / "b.tmp").write_text("1")
    (rig.source / "kept").write_text("1")
    rig.configure("{exclude_larger_than: 2K, exclude_file: .nobackup, excludes: ['*.tmp']}")
    assert sorted(path.name for path in rig.back_up().rglob("*")) == ["kept", "private"]


def test_b26_a_transfer_in_which_nothing_moves_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = process.run(["sleep", "60"], stall=1.0)
    assert done.stalled
    assert time.monotonic() - begun < 20
    assert not process.run(["sh", "-c", "for i in 1 2 3 4 5 6; do echo; sleep 0.4; done"], stall=1.0).stalled


def test_bytes_that_move_are_a_sign_of_life() -> None:
    quiet_work = "import time\nfor _ in range(30):\n open('/dev/zero','rb').read(10**6); time.sleep(0.1)"
    assert not process.run(["/usr/bin/python3", "-c", quiet_work], stall=1.0).stalled


def test_the_words_for_a_stall(rig: Rig) -> None:
    ended = process.Finished(-15, "", "", stalled=True)
    assert "stall_timeout" in transfer._transferred(job(rig), ended).verdict.note


def test_a_sleeping_client_is_called_by_its_hardware_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("", 0))
        ear.settimeout(5)
        heard: list[bytes] = []
        listener = threading.Thread(target=lambda: heard.append(ear.recv(200)))
        listener.start()
        wake.wake("00:11:22:aa:bb:cc", pulse, port=ear.getsockname()[1])
        listener.join()
    assert heard == [b"\xff" * 6 + bytes.fromhex("001122aabbcc") * 16]


def test_ciphers_are_offered_as_configured(rig: Rig) -> None:
    config = Config(Path("/none"), rig.disk, ciphers=("aes128-gcm@openssh.com",))
    assert "Ciphers=aes128-gcm@openssh.com" in transfer.shell(config, job(rig))


def test_the_patterns_are_explained_by_rsync_itself(rig: Rig) -> None:
    rig.configure("{excludes: ['.cache/', '/secret', '*.tmp']}")
    said = rig.call(
        "excludes", "test", "laptop/home", "anna/.cache/x/y", "a.tmp", "secret", "anna/secret", "b"
    ).stdout
    assert said.splitlines() == [
        "anna/.cache/x/y: is left out by the pattern .cache/, which meets anna/.cache",
        "a.tmp: is left out by the pattern *.tmp",
        "secret: is left out by the pattern /secret",
        "anna/secret: is backed up",
        "b: is backed up",
    ]
    assert ".cache/" in rig.call("excludes", "test", "laptop/home").stdout
    assert "no path below" in rig.call("excludes", "test", "laptop/home", "../x").stderr


def test_a_probe_says_what_the_client_can_do(rig: Rig) -> None:
    said = rig.call("probe", "laptop")
    assert said.returncode == 0, said.stderr
    assert "laptop: rsync 3.1 or later (protocol 3" in said.stdout
    assert "loses" not in said.stdout


def test_a_probe_names_what_an_old_rsync_loses(rig: Rig) -> None:
    """A fake that refuses what rsync 2.6.9 refuses, in front of the real one."""
    door = rig.top / "old-rsync"
    door.write_text(
        '#!/bin/sh\ncase "$SSH_ORIGINAL_COMMAND" in\n'
        '*--server*A*e.*) echo "ACLs are not supported" >&2; exit 4;; esac\n'
        f"exec rrsync -ro {rig.source}\n"
    )
    door.chmod(0o755)
    text = (rig.top / "authorized").read_text().replace(f"rrsync -ro {rig.source}", str(door))
    (rig.top / "authorized").write_text(text)
    said = rig.call("probe", "laptop").stdout
    assert "a backup loses access control lists" in said
    assert "rsync_options: [--no-acls]" in said


def test_the_ciphers_are_measured(rig: Rig) -> None:
    (rig.source / "big").write_bytes(b"x" * 3_000_000)
    said = rig.call("bench-ssh", "laptop/home", "big")
    assert said.returncode == 0, said.stderr
    assert "chacha20-poly1305@openssh.com" in said.stdout
    assert "MB/s" in said.stdout
    assert "ssh: {ciphers: [" in said.stdout
    assert "cannot be fetched" in rig.call("bench-ssh", "laptop/home", "none").stderr


def test_a_missing_source_is_no_part_of_a_backup(rig: Rig) -> None:
    for where in ("source: '/gone'", f"source: '{rig.source}/gone', local: true"):
        rig.configure(f"{{{where}, accept_partial: true}}")
        assert rig.call("backup", "laptop").returncode == 1
    assert rig.complete() == []
