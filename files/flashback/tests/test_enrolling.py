"""Enrolling a client: the command that is pasted there, and the pinning of its host key here."""

from __future__ import annotations

import shlex
import subprocess

from flashback import enrolling

from .rig import Rig

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH1 flashback@plug\n"


def host_fingerprint(rig: Rig) -> str:
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(rig.top / "host.pub")], capture_output=True, text=True, check=True
    )
    return shown.stdout.split()[1]


def read_as_nobody(rig: Rig) -> None:
    """Let the configuration name an account that is not root."""
    place = rig.top / "flashback.yml"
    text = place.read_text()
    place.write_text(text.replace("    addresses:", "    user: nobody\n    addresses:"))


def test_the_command_is_one_word_of_a_shell_that_reads_it(rig: Rig) -> None:
    made = enrolling.command("flashback", KEY, ["192.0.2.7", "2001:db8::/64"])
    sudo, sh, option, script = shlex.split(made)
    assert (sudo, sh, option) == ("sudo", "sh", "-c")
    assert 'from="192.0.2.7,2001:db8::/64"' in script
    subprocess.run(["sh", "-n", "-c", script], check=True)


def test_a_host_that_is_not_in_the_configuration_is_refused(rig: Rig) -> None:
    done = rig.call("enroll", "stranger")
    assert done.returncode == 2
    assert "has no client stranger" in done.stderr


def test_a_wrong_fingerprint_pins_nothing(rig: Rig) -> None:
    read_as_nobody(rig)
    before = (rig.top / "known_hosts").read_text()
    done = rig.call("enroll", "laptop", "--pin", "SHA256:AAAA")
    assert done.returncode == 1
    assert f"shows {host_fingerprint(rig)}" in done.stderr
    assert (rig.top / "known_hosts").read_text() == before
    assert rig.call("enroll", "laptop", "--pin", "12:34").returncode == 2


def test_the_right_fingerprint_is_pinned_in_place_of_the_old_key(rig: Rig) -> None:
    read_as_nobody(rig)
    right = (rig.top / "known_hosts").read_text()
    (rig.top / "known_hosts").write_text(f"other {right.split(maxsplit=1)[1]}laptop ssh-ed25519 AAAAold\n")
    done = rig.call("enroll", "laptop", "--pin", host_fingerprint(rig))
    # The rig lets in root alone, so that reading fails after the pinning.
    assert "laptop is pinned, but" in done.stderr
    lines = (rig.top / "known_hosts").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["other", "laptop"]
    assert lines[1].split()[1:3] == right.split()[1:3]
