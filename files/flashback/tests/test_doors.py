"""What the engine's key can do at a client besides reading: real sshds that let it do too much."""

from __future__ import annotations

import json

import pytest

from .rig import Rig, until


def let_in(rig: Rig, options: str) -> None:
    """Give the key other options in the client's authorized_keys."""
    authorized = rig.top / "authorized"
    key = authorized.read_text().partition("ssh-ed25519 ")[2]
    authorized.write_text(f"{options} ssh-ed25519 {key}".strip() + "\n")


def test_the_usual_key_can_read_and_nothing_else(rig: Rig) -> None:
    done = rig.call("doors")
    assert (done.returncode, done.stdout) == (0, "laptop: the key can read and nothing else\n")


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ('restrict,command="/usr/bin/rrsync {source}"', ["can write"]),
        ('command="/usr/bin/rrsync -ro {source}"', ["can forward ports"]),
        ("restrict", ["gets a shell", "can write"]),
        ("", ["gets a shell", "can write", "can forward ports"]),
    ],
)
def test_each_open_door_is_found_and_nothing_is_written(rig: Rig, options: str, problems: list[str]) -> None:
    (rig.source / "file").write_text("content")
    before = sorted(rig.source.rglob("*"))
    let_in(rig, options.format(source=rig.source))
    done = rig.call("doors", "laptop", "--json")
    assert done.returncode == 1
    (tried,) = json.loads(done.stdout)
    assert (tried["host"], tried["problems"]) == ("laptop", problems)
    assert sorted(rig.source.rglob("*")) == before
    assert sorted(rig.top.glob("doors.py")) == []


def test_a_client_that_is_away_proves_nothing(rig: Rig) -> None:
    rig.call("doors")
    let_in(rig, "no-such-option")
    done = rig.call("doors")
    assert done.returncode == 75
    assert "does not let the key in" in done.stderr


def test_an_open_door_is_tried_daily_by_the_daemon_and_makes_it_unwell(rig: Rig) -> None:
    (rig.source / "file").write_text("content")
    let_in(rig, f'command="/usr/bin/rrsync -ro {rig.source}"')
    daemon = rig.start("run")
    until(lambda: "can forward ports at laptop: enrol that client again" in rig.call("status").stdout, 90)
    assert rig.call("status").returncode == 1
    daemon.terminate()
    daemon.communicate()
