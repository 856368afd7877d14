"""Stored data is read again, healed and restored for proof, with the real rsync and sshd."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from flashback import clock, config, disk, drill, manifest, verify
from flashback.cli import verifying
from flashback.errors import FlashbackError, StoppedError
from flashback.ledger import opened
from flashback.model import Config, snapshot_time

from .rig import Rig, tree

CONTENT = b"all is well " * 1000


def loaded(rig: Rig, **changed: object) -> Config:
    return replace(config.load(rig.config), **{"verify_rate": 1_000_000_000, **changed})  # type: ignore[arg-type]


def seal(rig: Rig) -> None:
    settings = loaded(rig)
    for job, snapshot in manifest.missing(settings, settings.jobs):
        manifest.seal(settings, job, snapshot)


def back_up(rig: Rig, count: int = 1) -> Path:
    for _ in range(count):
        made = rig.back_up()
    seal(rig)
    return made


def flip(path: Path, at: int = 5) -> None:
    """Change one byte as a disk does it: size and times stay."""
    before = path.stat()
    subprocess.run(
        ["dd", f"of={path}", "bs=1", f"seek={at}", "count=1", "conv=notrunc", "status=none"],
        input=b"X",
        check=True,
    )
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def quarantined(rig: Rig) -> list[Path]:
    return [path for path in (rig.disk / ".flashback/quarantine").rglob("*") if path.is_file()]


def away(settings: Config) -> Config:
    """Return the configuration with a client that does not answer."""
    return replace(settings, jobs=tuple(replace(job, port=1) for job in settings.jobs))


@pytest.mark.parametrize("name", [b"deep/er/a", b"-dash", b"new\nline", b"bad\xff", b"*[a]?", b"n" * 255])
def test_a_flipped_byte_is_found_named_and_healed_from_the_client(rig: Rig, name: bytes) -> None:
    source = rig.source / os.fsdecode(name)
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(CONTENT)
    source.chmod(0o6751)
    os.chown(source, 4321, 98765)
    source.chmod(0o6751)
    subprocess.run(["setfacl", "-m", "u:1234:rw", "--", str(source)], check=True)
    os.setxattr(source, "user.colour", b"\0green")
    (rig.source / "other").write_bytes(b"other")
    last = back_up(rig, 3)
    before = [tree(each) for each in rig.complete()]
    flip(last / os.fsdecode(name))
    made = verify.run(loaded(rig))
    assert [(each.path, each.kind, len(each.places)) for each in made.found] == [(name, "rot", 3)]
    assert [each.path for each in made.healed] == [name]
    assert (made.open, made.complete) == ((), True)
    assert [tree(each) for each in rig.complete()] == before
    inodes = {(each / os.fsdecode(name)).stat().st_ino for each in rig.complete()}
    assert len(inodes) == 1
    (kept,) = quarantined(rig)
    assert kept.stat().st_ino not in inodes
    assert kept.read_bytes() != CONTENT
    assert os.fsencode(kept).endswith(b"/" + name)
    assert not (rig.disk / ".flashback/healing").exists()
    assert verify.run(loaded(rig)).found == ()
    # The next backup links to the good one.
    assert (back_up(rig) / os.fsdecode(name)).stat().st_ino in inodes


def test_healing_keeps_the_stored_mode_although_the_client_has_another_now(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig)
    before = tree(last)
    flip(last / "a")
    (rig.source / "a").chmod(0o600)
    os.chown(rig.source / "a", 77, 77)
    assert verify.run(loaded(rig)).open == ()
    assert tree(last) == before


def test_a_snapshot_that_expires_meanwhile_is_no_damage(rig: Rig) -> None:
    for name in "abc":
        (rig.source / name).write_bytes(CONTENT)
    last = back_up(rig)
    calls: list[int] = []

    def pulse() -> None:
        calls.append(1)
        if len(calls) == 3:
            shutil.rmtree(last.rename(last.with_name(f"expired-{last.name}")))

    made = verify.run(loaded(rig), pulse=pulse)
    assert (made.files, made.found, made.open) == (1, (), ())


def test_it_is_not_healed_by_another_version_and_no_later_backup_links_to_it(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig, 2)
    os.utime(last, ns=(7, 7))
    flip(last / "a")
    (rig.source / "a").write_bytes(CONTENT.replace(b"well", b"sick"))
    made = verify.run(loaded(rig))
    assert made.healed == ()
    assert [each.reason for each in made.open] == ["the client has another version now"]
    assert not any((each / "a").exists() for each in rig.complete())
    assert len(quarantined(rig)) == 1
    assert last.stat().st_mtime_ns == 7
    assert (back_up(rig) / "a").read_bytes() == CONTENT.replace(b"well", b"sick")
    again = verify.run(loaded(rig))
    assert (len(again.found), len(again.open)) == (0, 1)
    assert len(quarantined(rig)) == 1
    assert verify.damage(loaded(rig)) == list(again.open)
    gone = verify.forget(loaded(rig), [again.open[0].names[0]])
    assert [each.path for each in gone] == [b"a"]
    assert verify.damage(loaded(rig)) == []


def test_without_the_client_it_waits_and_is_healed_by_the_next_backup(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig, 2)
    before = [tree(each) for each in rig.complete()]
    flip(last / "a")
    made = verify.run(away(loaded(rig)))
    assert "the client is away" in made.open[0].reason
    assert not (last / "a").exists()
    back_up(rig)
    made = verify.run(away(loaded(rig)))
    assert [each.path for each in made.healed] == [b"a"]
    assert [tree(each) for each in rig.complete()[:2]] == before


def test_a_missing_file_comes_back_in_the_one_snapshot_that_lost_it(rig: Rig) -> None:
    (rig.source / "sub").mkdir()
    (rig.source / "sub/a").write_bytes(CONTENT)
    first = back_up(rig, 2)
    before = [tree(each) for each in rig.complete()]
    times = (first / "sub").stat()
    (first / "sub/a").unlink()
    os.utime(first / "sub", ns=(times.st_atime_ns, times.st_mtime_ns))
    made = verify.run(away(loaded(rig)))
    assert [(each.kind, each.names) for each in made.found] == [
        ("missing", [f"laptop/home/daily/{first.name}/sub/a"])
    ]
    assert len(made.healed) == 1
    assert [tree(each) for each in rig.complete()] == before
    assert len({(each / "sub/a").stat().st_ino for each in rig.complete()}) == 1


@pytest.mark.parametrize("harm", ["size", "time"])
def test_another_size_or_time_is_damage_too(rig: Rig, harm: str) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig, 2)
    before = [tree(each) for each in rig.complete()]
    if harm == "size":
        os.truncate(last / "a", 100)
    else:
        os.utime(last / "a", ns=(1, 1))
    made = verify.run(loaded(rig))
    assert [(each.kind, len(each.places)) for each in made.found] == [("altered", 2)]
    assert made.open == ()
    assert [tree(each) for each in rig.complete()] == before


def test_an_interrupted_verify_goes_on_where_it_was(rig: Rig) -> None:
    for number in range(20):
        (rig.source / f"{number:02}").write_bytes(bytes([number]) * 300_000)
    back_up(rig, 2)
    read: list[int] = []

    def pulse() -> None:
        read.append(1)
        if len(read) > 30:
            raise StoppedError

    with pytest.raises(StoppedError):
        verify.run(loaded(rig), pulse=pulse)
    with opened(rig.disk) as ledger:
        at = ledger.fact("path")
    assert b"00" < at < b"19"
    rest = verify.run(loaded(rig, verify_bytes=300_000 * (19 - int(at)) + 100_000))
    assert rest.files == 19 - int(at)
    with opened(rig.disk) as ledger:
        assert ledger.fact("path") == b"19"


def test_the_budget_and_the_rate_hold_and_everything_is_read_in_time(rig: Rig) -> None:
    for number in range(10):
        (rig.source / f"{number}").write_bytes(bytes([number]) * 100_000)
    back_up(rig, 3)
    began = time.monotonic()
    slices = [verify.run(loaded(rig, verify_bytes=350_000, verify_rate=1_000_000)) for _ in range(4)]
    assert time.monotonic() - began > 0.7
    assert [each.bytes for each in slices] == [300_000] * 4
    with opened(rig.disk) as ledger:
        # Round once: the twelfth file read is the second one again.
        assert ledger.fact("path") == b"1"
    assert verify.run(loaded(rig), everything=True).files == 10


def test_a_file_larger_than_the_budget_is_read_and_paid_for_later(rig: Rig) -> None:
    (rig.source / "a").write_bytes(b"a" * 1_000_000)
    (rig.source / "b").write_bytes(b"b" * 1_000)
    back_up(rig)
    made = [verify.run(loaded(rig, verify_bytes=400_000)).bytes for _ in range(4)]
    assert made == [1_000_000, 0, 1_000, 1_000_000]


def test_hard_links_inside_a_snapshot_are_healed_together(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    (rig.source / "z").hardlink_to(rig.source / "a")
    last = back_up(rig, 2)
    before = tree(last)
    flip(last / "a")
    made = verify.run(loaded(rig))
    assert len(made.open) == 0
    assert tree(last) == before
    assert (last / "z").stat().st_ino == (last / "a").stat().st_ino
    assert (last / "a").stat().st_nlink == 4


def test_what_an_interrupted_fill_left_does_not_bring_the_bad_file_back(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig)
    leftover = rig.label / "incoming.1"
    leftover.mkdir()
    (leftover / "a").hardlink_to(last / "a")
    flip(last / "a")
    assert verify.run(loaded(rig)).open == ()
    assert not (leftover / "a").exists()


def test_an_error_of_the_disk_is_reported_and_nothing_is_touched(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    (rig.source / "b").write_bytes(CONTENT + b"b")
    last = back_up(rig)
    before, sick, read = tree(last), (last / "a").stat().st_ino, os.read

    def broken(descriptor: int, size: int) -> bytes:
        if os.fstat(descriptor).st_ino == sick:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, size)

    with monkeypatch.context() as patched:
        # No disk that fails on demand is at hand.
        patched.setattr(os, "read", broken)
        made = verify.run(loaded(rig))
    assert [(each.path, each.kind) for each in made.open] == [(b"a", "unreadable")]
    assert "Input/output error" in made.open[0].reason
    assert tree(last) == before
    assert quarantined(rig) == []
    assert [each.reason for each in verify.run(loaded(rig)).healed] == ["it reads well again"]


def test_too_much_damage_takes_nothing_away(rig: Rig) -> None:
    for number in range(verify.MANY):
        (rig.source / f"{number:03}").write_bytes(b"good %d" % number)
    last = back_up(rig)
    for each in last.iterdir():
        flip(each, 0)
    made = verify.run(away(loaded(rig)))
    assert len(made.open) == verify.MANY
    assert "Too much" in made.notes[0]
    assert len(list(last.iterdir())) == verify.MANY
    assert verify.run(loaded(rig)).open == ()
    assert tree(last)[1:] == tree(rig.source)[1:]


def test_while_a_backup_runs_damage_is_named_but_healed_later(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig)
    flip(last / "a")
    with disk.locked(loaded(rig)):
        made = verify.run(loaded(rig))
    assert [each.path for each in made.open] == [b"a"]
    assert "A backup is running" in made.notes[0]
    assert (last / "a").exists()
    assert [each.path for each in verify.run(loaded(rig)).healed] == [b"a"]


def test_damage_goes_with_its_last_snapshot(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig)
    flip(last / "a")
    (rig.source / "a").write_bytes(b"new")
    assert len(verify.run(loaded(rig)).open) == 1
    shutil.rmtree(last)
    assert verify.run(loaded(rig)).open == ()


def test_a_damaged_ledger_is_set_aside(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    back_up(rig)
    (rig.disk / ".flashback/verify.db").write_text("this is no database" * 100)
    assert verify.damage(loaded(rig)) == []
    assert verify.run(loaded(rig)).files == 1
    assert list((rig.disk / ".flashback").glob("verify.db.damaged-*"))


def test_a_damaged_manifest_is_set_aside_and_made_again(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    back_up(rig)
    settings = loaded(rig)
    snapshot = manifest.sealed(settings, settings.jobs[0])[0]
    path = manifest.place(settings, settings.jobs[0], snapshot.name)
    path.write_bytes(path.read_bytes()[:-20])
    assert "set aside" in verify.run(settings).notes[0]
    assert [each for _, each in manifest.missing(settings, settings.jobs)] == [snapshot]


# --- the drill ---------------------------------------------------------------------------------------------


def test_a_drill_proves_a_restore_with_a_date(rig: Rig) -> None:
    for number in range(30):
        (rig.source / f"{number:02}").write_bytes(b"%d" % number)
    (rig.source / "new\nline").write_bytes(b"x")
    back_up(rig)
    (rig.source / "fresh").write_bytes(b"fresh")
    last = back_up(rig)
    (rig.source / "00").write_bytes(b"changed since")
    settings = loaded(rig)
    assert drill.due(settings, clock.now()) == ["laptop"]
    made = drill.run(settings, "laptop", seed=1)
    assert (made.good, made.problems) == (True, ())
    assert made.files == 21
    assert 20 <= made.compared <= 21
    assert drill.proven(settings, settings.jobs[0]) == snapshot_time(last.name)
    assert drill.due(settings, clock.now()) == []
    assert drill.due(settings, clock.now() + timedelta(days=8)) == ["laptop"]
    assert drill.last(settings)["laptop"].snapshots == made.snapshots
    assert not (rig.disk / ".flashback/drill").exists()
    assert drill.run(away(settings), "laptop", seed=1).compared == -1


def test_a_drill_fails_on_a_flipped_byte_and_names_the_file(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    last = back_up(rig)
    settings = loaded(rig)
    assert drill.run(settings, "laptop").good
    flip(last / "a")
    made = drill.run(settings, "laptop")
    assert not made.good
    assert f"laptop/home/daily/{last.name}/a: its content" in made.reason
    assert drill.proven(settings, settings.jobs[0]) is None
    assert not (rig.disk / ".flashback/drill").exists()


def test_a_drill_sees_that_the_client_has_other_content_at_the_same_time(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    back_up(rig)
    flip(rig.source / "a")
    made = drill.run(loaded(rig), "laptop")
    assert "the client has the same size and time, but other content" in made.reason


def test_an_interrupted_drill_leaves_nothing(rig: Rig) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    back_up(rig)
    calls: list[int] = []

    def pulse() -> None:
        calls.append(1)
        if (rig.disk / ".flashback/drill").exists():
            raise StoppedError

    with pytest.raises(StoppedError):
        drill.run(loaded(rig), "laptop", pulse=pulse)
    assert not (rig.disk / ".flashback/drill").exists()
    assert drill.last(loaded(rig)) == {}


# --- the commands ------------------------------------------------------------------------------------------


@pytest.fixture
def call(rig: Rig) -> Callable[..., tuple[int, str]]:
    def made(*words: str) -> tuple[int, str]:
        command = getattr(verifying, words[0])
        done = CliRunner().invoke(command, list(words[1:]), obj=rig.config, standalone_mode=False)
        if done.exception is not None:
            assert isinstance(done.exception, FlashbackError), done.exception
            return done.exception.exit_code, str(done.exception)
        return int(done.return_value), done.output

    return made


def test_the_commands_say_it_in_sentences_and_in_json(rig: Rig, call: Callable[..., tuple[int, str]]) -> None:
    (rig.source / "a").write_bytes(CONTENT)
    assert call("drill")[0] == 75
    last = back_up(rig)
    code, said = call("verify", "--all")
    assert (code, "1 files, 12000 bytes read again in" in said) == (0, True)
    assert call("damage") == (0, "No stored file is known to be damaged.\n")
    assert call("drill", "laptop")[0] == 0
    flip(last / "a")
    (rig.source / "a").write_bytes(b"new")
    assert json.loads(call("drill", "--json")[1])[0]["good"] is False
    code, said = call("verify", "laptop/home", "--json")
    assert (code, json.loads(said)["damaged"][0]["kind"]) == (1, "rot")
    code, said = call("damage")
    assert code == 1
    assert f"Damaged (rot): laptop/home/daily/{last.name}/a, in 1 snapshots. The" not in said
    assert "the bad file is kept as" in said
    assert json.loads(call("damage", "--json")[1])[0]["places"] == [f"laptop/home/daily/{last.name}/a"]
    assert call("verify", "nobody")[0] == 2
    assert call("verify", "--budget", "much")[0] == 2
    assert call("verify", "--forget", "nothing")[0] == 2
    assert call("verify", "--forget", "laptop/home/a") == (
        0,
        f"Forgotten: laptop/home/daily/{last.name}/a\n",
    )
    assert call("verify", "--budget", "10M")[0] == 1
