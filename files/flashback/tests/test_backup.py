"""Backups with the real rsync through a real sshd that only knows `rrsync -ro`."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest

from .rig import Rig, keygen, tree, until

SCHEMA = Path(__file__).parent.parent / "src/flashback/schema/status-1.json"


def fake_rsync(rig: Rig, code: int) -> dict[str, str]:
    """Put a five-line rsync in front of the real one."""
    folder = rig.top / "bin"
    folder.mkdir(exist_ok=True)
    fake = folder / "rsync"
    fake.write_text(f"#!/bin/sh\necho 'fake trouble' >&2\nexit {code}\n")
    fake.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def document(rig: Rig) -> dict[str, object]:
    made = json.loads((rig.run_dir / "status.json").read_text())
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))
    assert isinstance(made, dict)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def torture(top: Path) -> None:
    """Fill a directory with everything that is hard to keep."""
    for name in (b"new\nline", b"bad\xff\xfe", b"-dash", b"n" * 255, b"blank and 'quote\"", b"*[a]?"):
        (top / os.fsdecode(name)).write_bytes(name)
    (top / "dir").mkdir(mode=0o2750)
    (top / "dir/a").write_text("linked")
    (top / "dir/b").hardlink_to(top / "dir/a")
    (top / "link").symlink_to("dir/a")
    (top / "dangling").symlink_to("/nowhere")
    os.mkfifo(top / "fifo")
    os.mknod(top / "device", 0o20600, os.makedev(1, 3))
    with (top / "sparse").open("wb") as file:
        file.truncate(20_000_000)
    os.chown(top / "dir/a", 4321, 98765)
    os.setxattr(top / "dir/a", "user.colour", b"\0green")
    subprocess.run(["setfacl", "-m", "u:1234:rw", str(top / "dir")], check=True)
    subprocess.run(["setfacl", "-d", "-m", "g:77:r", str(top / "dir")], check=True)
    (top / "suid").write_text("x")
    (top / "suid").chmod(0o6711)
    os.utime(top / "suid", ns=(1, 1_234_567_890_123_456_789))


def test_b14_everything_comes_back_bit_by_bit(rig: Rig) -> None:
    torture(rig.source)
    before = tree(rig.source)
    assert tree(rig.back_up()) == before
    second = rig.back_up()
    assert tree(second) == before
    assert (second / "dir/a").stat().st_nlink == 4
    assert (second / "sparse").stat().st_blocks < 100
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"))
    assert done.returncode == 0, done.stderr
    assert tree(rig.top / "back") == before


def test_a_changed_mode_is_never_applied_to_an_older_snapshot(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    first = rig.back_up()
    before = tree(first)
    (rig.source / "a").chmod(0o600)
    second = rig.back_up()
    assert tree(first) == before
    assert (second / "a").stat().st_mode & 0o777 == 0o600


def test_a_change_within_one_second_that_keeps_the_size_is_seen(rig: Rig) -> None:
    file, second = rig.source / "a", 1_700_000_000_000_000_000
    file.write_text("before")
    os.utime(file, ns=(second, second))
    first = rig.back_up()
    file.write_text("behind")
    os.utime(file, ns=(second, second + 1))
    assert (rig.back_up() / "a").read_text() == "behind"
    assert (first / "a").read_text() == "before"


def test_the_oldest_expire(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    taken = [rig.back_up().name for _ in range(5)]
    assert [path.name for path in rig.complete()] == taken[-3:]
    assert names(rig.label) == taken[-3:]


def test_b01_an_emptied_source_is_held_back_and_nothing_expires(rig: Rig) -> None:
    rig.configure("{period: 1d, keep: 1}")
    (rig.source / "a").write_text("1")
    kept = rig.back_up()
    (rig.source / "a").unlink()
    for _ in range(3):
        done = rig.call("backup", "laptop")
        assert done.returncode == 1
        assert "flashback accept laptop/home/daily" in done.stdout
    assert rig.complete() == [kept]
    assert (kept / "a").read_text() == "1"
    assert len(list(rig.label.glob("suspect-*"))) == 1
    assert document(rig)["jobs"][0]["state"] == "FAILED"  # type: ignore[index]


def test_b01_after_a_word_backups_go_on(rig: Rig) -> None:
    rig.configure("{period: 1d, keep: 1}")
    for number in range(30):
        (rig.source / str(number)).write_text("1")
    rig.back_up()
    for path in rig.source.iterdir():
        path.unlink()
    (rig.source / "new").write_text("1")
    assert rig.call("backup", "laptop").returncode == 1
    assert rig.call("accept", "laptop/home").returncode == 0
    assert names(rig.back_up()) == ["new"]
    assert len(rig.complete()) == 1


def test_b02_the_newest_snapshot_that_is_left_is_the_base(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    first, second = rig.back_up(), rig.back_up()
    second.rename(second.with_name(f"expired-{second.name}"))
    third = rig.back_up()
    assert (third / "a").stat().st_ino == (first / "a").stat().st_ino
    assert names(rig.label) == [first.name, third.name]


def test_b23_a_dry_run_reports_no_success(rig: Rig) -> None:
    done = rig.call("pass", "--dry-run")
    assert "laptop/home/daily is due and was not run" in done.stdout
    assert not rig.label.exists()
    assert not (rig.run_dir / "status.json").exists()


@pytest.mark.parametrize(("code", "outcome"), [(24, 0), (23, 1), (12, 1)])
def test_exit_codes_of_rsync(rig: Rig, code: int, outcome: int) -> None:
    done = rig.call("backup", "laptop", env=fake_rsync(rig, code))
    assert done.returncode == outcome
    assert bool(rig.complete()) is (outcome == 0)
    job = document(rig)["jobs"][0]  # type: ignore[index]
    assert job["last_run"]["exit"] == code
    assert outcome == 0 or "fake trouble" in job["reason"]


def test_b24_a_failure_survives_a_restart(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    rig.call("backup", "laptop", env=fake_rsync(rig, 23))
    (rig.run_dir / "status.json").unlink()
    # Nothing is due: what the new engine knows it knows from the disk.
    child = rig.start("run")
    until(lambda: (rig.run_dir / "status.json").exists() and document(rig)["engine"]["state"] == "IDLE")  # type: ignore[index]
    assert document(rig)["jobs"][0]["last_run"]["outcome"] == "FAILED"  # type: ignore[index]
    assert rig.call("status").returncode == 1
    child.terminate()


def test_a_client_that_is_away_is_not_a_failure(rig: Rig) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rig.port = free.getsockname()[1]
    rig.configure()
    done = rig.call("backup", "laptop")
    assert (done.returncode, "NOT_FOUND" in done.stdout) == (75, True)
    assert not rig.label.exists()


def test_a_machine_with_another_host_key_is_refused(rig: Rig) -> None:
    (rig.top / "known_hosts").write_text(f"laptop {keygen(rig.top / 'other')}\n")
    done = rig.call("backup", "laptop")
    assert done.returncode == 75
    assert "another host key" in done.stdout


def test_a_client_without_a_pinned_key_is_refused_with_a_hint(rig: Rig) -> None:
    (rig.top / "known_hosts").write_text("")
    assert "enrol" in rig.call("backup", "laptop").stdout


def test_b16_nothing_is_written_where_the_disk_is_missing(rig: Rig) -> None:
    (rig.disk / ".flashback/id").unlink()
    done = rig.call("pass")
    assert done.returncode == 75
    assert names(rig.disk) == [".flashback"]
    assert names(rig.disk / ".flashback") == []


def test_the_disk_vanishing_in_the_middle_commits_nothing(rig: Rig) -> None:
    (rig.source / "big").write_bytes(random.Random(1).randbytes(6_000_000))
    rig.configure("{period: 1d, bandwidth_limit: 2M}")
    child = rig.start("backup", "laptop")
    until(rig.rsyncs)
    (rig.disk / ".flashback/id").unlink()
    assert child.wait(30) in (1, 75)
    assert rig.complete() == []


def slow(rig: Rig) -> None:
    """Make a transfer that takes some five seconds, small files first."""
    rig.configure("{period: 1d, keep: 3, bandwidth_limit: 1M}")
    numbers = random.Random(2)
    for number in range(50):
        (rig.source / f"{number:03}").write_bytes(numbers.randbytes(100_000))


def test_b03_sigterm_ends_rsync_and_the_next_run_continues(rig: Rig) -> None:
    slow(rig)
    child = rig.start("run")
    until(lambda: len(list((rig.label / "incoming").glob("0*"))) > 5)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 0
    assert rig.rsyncs() == []
    assert document(rig)["engine"]["state"] == "DOWN"  # type: ignore[index]
    assert "status=DOWN" in (rig.run_dir / "status").read_text()
    arrived = {path.name for path in (rig.label / "incoming").glob("0*")}
    inodes = {name: (rig.label / "incoming" / name).stat().st_ino for name in arrived}
    snapshot = rig.back_up()
    assert tree(snapshot) == tree(rig.source)
    assert {name: (snapshot / name).stat().st_ino for name in arrived} == inodes
    assert names(rig.label) == [snapshot.name]


def test_sigkill_at_random_moments_never_harms_what_is_complete(rig: Rig) -> None:
    slow(rig)
    (rig.source / "000").chmod(0o644)
    rig.configure("{period: 1d, keep: 3}")
    first = rig.back_up()
    before = tree(first)
    rig.configure("{period: 1d, keep: 3, bandwidth_limit: 1M}")
    numbers = random.Random(3)
    for number in range(0, 50, 2):
        (rig.source / f"{number:03}").write_bytes(numbers.randbytes(100_000))
    for path in rig.source.iterdir():
        path.chmod(0o640)
    for _ in range(4):
        child = rig.start("backup", "laptop", "--wait")
        until(rig.rsyncs)
        time.sleep(numbers.uniform(0.0, 1.5))
        for pid in rig.rsyncs() if numbers.random() < 0.5 else []:
            os.kill(int(pid), signal.SIGKILL)
        child.kill()
        child.wait()
        (rig.source / "001").chmod(numbers.choice([0o600, 0o755]))
        until(lambda: not rig.rsyncs())
        assert rig.complete() == [first]
        assert tree(first) == before
    rig.configure("{period: 1d, keep: 3}")
    last = rig.back_up()
    assert tree(first) == before
    assert tree(last) == tree(rig.source)
    assert names(rig.label) == [first.name, last.name]


def test_files_since_the_last_checkpoint_are_not_trusted(rig: Rig) -> None:
    (rig.source / "a").write_text("good")
    (rig.source / "b").write_text("good")
    leftover = rig.label / "incoming"
    leftover.mkdir(parents=True)
    for name in "ab":
        shutil.copy2(rig.source / name, leftover / name)
        if name == "a":
            (rig.label / "incoming.synced").write_text(f"{time.time_ns()}\n")
            time.sleep(0.05)
    # As a power cut leaves it: the size and time are right, the content is not.
    times = (leftover / "b").stat()
    (leftover / "b").write_bytes(b"\0\0\0\0")
    os.utime(leftover / "b", ns=(times.st_atime_ns, times.st_mtime_ns))
    inode = (leftover / "a").stat().st_ino
    snapshot = rig.back_up()
    assert (snapshot / "b").read_text() == "good"
    assert (snapshot / "a").stat().st_ino == inode


def test_many_interruptions_keep_few_leftovers(rig: Rig) -> None:
    (rig.source / "a").write_text("good")
    for number in range(1, 20):
        (rig.label / f"incoming.{number}").mkdir(parents=True)
        shutil.copy2(rig.source / "a", rig.label / f"incoming.{number}/a")
    snapshot = rig.back_up()
    assert names(rig.label) == [snapshot.name]


def test_b13_an_interrupted_expiry_is_finished_by_the_next_pass(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    (rig.label / "expired-2020-01-01T000000Z/deep").mkdir(parents=True)
    assert rig.call("pass").returncode == 0
    assert not list(rig.label.glob("expired-*"))


def test_a_damaged_history_stops_nothing(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    (rig.disk / ".flashback/history.db").write_text("this is no database" * 100)
    rig.back_up()
    assert list((rig.disk / ".flashback").glob("history.db.damaged-*"))
    assert document(rig)["jobs"][0]["last_run"]["outcome"] == "SUCCEEDED"  # type: ignore[index]


def test_b11_b21_local_jobs_and_removable_sources(rig: Rig) -> None:
    (rig.top / "here").mkdir()
    (rig.top / "here/a").write_text("1")
    there = (
        f"  localhost: {{volumes: {{v: {{source: {rig.top}/here, removable: true, jobs: {{daily: }}}}}}}}\n"
    )
    rig.configure(more=there)
    assert rig.call("backup", "localhost").returncode == 0
    shutil.rmtree(rig.top / "here")
    assert rig.call("backup", "localhost").returncode == 75
    rig.configure("{source: /sub, removable: true}")
    assert rig.call("backup", "laptop").returncode == 75
    (rig.source / "sub").mkdir()
    assert rig.call("backup", "laptop").returncode == 75
    (rig.source / "sub/a").write_text("1")
    assert rig.call("backup", "laptop").returncode == 0


def test_b26_a_job_has_a_timeout(rig: Rig) -> None:
    slow(rig)
    rig.configure("{timeout: 1s, bandwidth_limit: 500K}")
    done = rig.call("backup", "laptop")
    assert done.returncode == 1
    assert "timeout" in done.stdout
    assert rig.rsyncs() == []


def test_b08_a_broken_configuration_while_running_keeps_the_last_good_one(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    child = rig.start("run")
    until(lambda: (rig.run_dir / "status.json").exists() and document(rig)["engine"]["state"] == "IDLE")  # type: ignore[index]
    good = rig.config.read_text()
    rig.config.write_text(good + "typo: 1\n")
    child.send_signal(signal.SIGHUP)
    until(lambda: document(rig)["config"]["error"])  # type: ignore[index]
    assert "typo" in str(document(rig)["config"])
    assert child.poll() is None
    rig.config.write_text(good)
    assert rig.call("status").returncode == 1
    assert rig.call("backup", "laptop").returncode == 0
    assert document(rig)["config"]["error"] is None  # type: ignore[index]
    assert rig.call("status").returncode == 0
    child.terminate()
    assert child.wait(20) == 0


def test_one_engine_at_a_time(rig: Rig) -> None:
    slow(rig)
    first = rig.start("run")
    until(rig.rsyncs)
    second = rig.call("run")
    assert second.returncode == 75
    refused = rig.call("pass")
    assert (refused.returncode, "Another run" in refused.stderr) == (75, True)
    waited = rig.call("backup", "laptop", "--wait")
    assert waited.returncode == 0, waited.stderr
    assert len(rig.complete()) == 2
    first.terminate()


def test_b15_a_dead_engine_is_recognised(rig: Rig) -> None:
    child = rig.start("run")
    until(lambda: (rig.run_dir / "status.json").exists() and document(rig)["engine"]["state"] == "IDLE")  # type: ignore[index]
    child.kill()
    child.wait()
    assert rig.call("status").returncode == 75
    assert "red" in rig.call("led", "--show").stdout
    again = rig.start("run")
    until(lambda: rig.call("status").returncode == 0)
    again.terminate()


def test_the_two_text_files(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    child = rig.start("run")
    until(lambda: (rig.run_dir / "status").exists() and "status=IDLE" in (rig.run_dir / "status").read_text())
    keys = [line.partition("=")[0] for line in (rig.run_dir / "status").read_text().splitlines()]
    sizes = [
        "disk.total.bytes",
        "disk.used.bytes",
        "disk.free.bytes",
        "disk.used.percent",
        "disk.free.percent",
    ]
    assert keys == ["date", "time", "pid", "status", "target", "wait", "disk.mntpt", "disk.mounted", *sizes]
    head, empty, _, row = (rig.run_dir / "queue").read_text().splitlines()
    assert head.endswith(" : sleeping 60 min")
    assert empty == ""
    assert row.startswith("laptop-home-daily   ")
    assert "SUCCEEDED (0:00:0" in row
    assert oct((rig.run_dir / "status.json").stat().st_mode)[-3:] == "644"
    child.terminate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["laptop/home", "../x", "--to", "{top}/t"], "leaves the snapshot"),
        (["laptop/home", "out/passwd", "--to", "{top}/t"], "through a link"),
        (["laptop/home", "nothing", "--to", "{top}/t"], "is not in"),
        (["laptop/home", "--to", "{top}/disk/laptop/x"], "on the backup disk"),
        (["laptop/home", "--to", "{top}/source"], "not empty"),
        (["laptop/home", "--to", "{top}/t", "--snapshot", "2020-01-01T000000Z"], "no snapshot called"),
        (["nobody/home", "--to", "{top}/t"], "no snapshot of"),
    ],
)
def test_what_restore_refuses(rig: Rig, words: list[str], said: str) -> None:
    (rig.source / "a").write_text("1")
    (rig.source / "out").symlink_to("/etc")
    rig.back_up()
    done = rig.call("restore", *[word.format(top=rig.top) for word in words])
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_restore_of_single_paths(rig: Rig) -> None:
    (rig.source / "sub").mkdir()
    (rig.source / "sub/a").write_text("1")
    (rig.source / "b").write_text("2")
    rig.back_up()
    assert rig.call("restore", "laptop/home", "/sub/a", "--to", str(rig.top / "t")).returncode == 0
    assert [str(path.relative_to(rig.top / "t")) for path in (rig.top / "t").rglob("*")] == ["sub", "sub/a"]


def test_the_lights_are_given_back(rig: Rig) -> None:
    for name in ("x:green", "x:red"):
        folder = rig.top / "leds" / name
        folder.mkdir(parents=True)
        (folder / "brightness").write_text("7")
        (folder / "max_brightness").write_text("255\n")
        (folder / "trigger").write_text("none [timer] heartbeat")
    words = ["led", "--root", str(rig.top / "leds"), "--green", "*green", "--red", "*red"]
    child = rig.start(*words)
    red, green = rig.top / "leds/x:red", rig.top / "leds/x:green"
    until(lambda: (red / "brightness").read_text() == "255")
    assert (green / "brightness").read_text() == "0"
    assert (red / "trigger").read_text() == "none"
    child.terminate()
    assert child.wait(10) == 0
    assert [(red / "brightness").read_text(), (red / "trigger").read_text()] == ["7", "timer"]


def test_one_missing_light_is_said_once(rig: Rig) -> None:
    child = rig.start("led", "--root", str(rig.top), "--green", "nothing*")
    time.sleep(1.5)
    child.terminate()
    assert child.communicate(timeout=10)[1].count("green") == 1
    assert child.returncode == 0


def test_two_engines_with_one_disk_are_refused(rig: Rig) -> None:
    slow(rig)
    first = rig.start("backup", "laptop")
    until(rig.rsyncs)
    rig.config.write_text(rig.config.read_text().replace(f"{rig.run_dir}\n", f"{rig.top}/run2\n"))
    second = rig.call("backup", "laptop")
    assert (second.returncode, "working on this disk" in second.stderr) == (75, True)
    assert first.wait(60) == 0


def test_b25_systemd_hears_ready_watchdog_and_stopping_even_during_a_transfer(rig: Rig) -> None:
    slow(rig)
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(rig.top / "notify"))
    ear.settimeout(10)
    child = rig.start("run", env={"NOTIFY_SOCKET": str(rig.top / "notify"), "WATCHDOG_USEC": "1500000"})
    heard = [ear.recv(500).decode() for _ in range(5)]
    assert rig.rsyncs()
    child.terminate()
    assert child.wait(20) == 0
    ear.settimeout(1)
    while heard[-1] != "STOPPING=1":
        heard.append(ear.recv(500).decode())
    ear.close()
    assert heard[0] == "READY=1"
    assert heard.count("WATCHDOG=1") >= 2
    assert any(word.startswith("STATUS=laptop/home/daily") for word in heard)


def test_a_file_with_all_the_links_a_file_system_allows_is_copied(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    first = rig.back_up()
    crowd = rig.disk / ".flashback/crowd"
    crowd.mkdir()
    limit = os.pathconf(rig.disk, "PC_LINK_MAX")
    if limit > 70_000:
        limit = 65_000
    try:
        for number in range(limit):
            (crowd / str(number)).hardlink_to(first / "a")
    except OSError as error:
        assert error.errno == 31
    second = rig.back_up()
    assert (second / "a").read_text() == "1"
    assert tree(second) == tree(rig.source)
