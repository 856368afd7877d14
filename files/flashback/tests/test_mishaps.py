"""What can go wrong around a backup: disks that go and come, files that vanish, limits of file systems."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from flashback import transfer
from flashback.store import Fill
from flashback.store.btrfs import BtrfsStore

from .disks import mounted
from .rig import Rig, tree, until
from .test_stores import Bench, pulse, some_files


def filled(bench: Bench, fill: Fill) -> transfer.Transferred:
    return transfer.fill(
        bench.config, bench.job, "", fill.destination,
        pulse=pulse, on_progress=lambda _: None, log=lambda _: None,
    )  # fmt: skip


def test_a_kill_before_the_first_checkpoint_sends_nothing_again_on_btrfs(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with mounted("btrfs", tmp_path, "loop,noatime,user_subvol_rm_allowed") as disk:
        bench = Bench(disk, tmp_path / "source")
        some_files(bench.source)
        first = bench.back_up()
        # as begin() leaves it when killed between the snapshot and the checkpoint
        store = bench.store
        assert isinstance(store, BtrfsStore)
        store._make_incoming(bench.label, first, pulse)
        again = bench.store.begin(bench.job, pulse)
        done = filled(bench, again)
        assert done.changed == 0, f"{done.changed} of 30 unchanged files were sent again"


def test_a_disk_unmounted_during_the_hook_sends_nothing_onto_the_stick(rig: Rig) -> None:
    shutil.rmtree(rig.disk / ".flashback")
    with mounted("ext4", rig.top):
        hook = rig.top / "hook"
        hook.write_text(f"#!/bin/sh\numount -l {rig.disk}\n")
        hook.chmod(0o755)
        (rig.source / "a").write_bytes(os.urandom(100_000))
        rig.configure(f"{{before: [{hook}]}}")
        done = rig.call("backup", "laptop")
        print(done.stdout, done.stderr)
        wrote = [str(p.relative_to(rig.disk)) for p in rig.disk.rglob("*") if ".flashback" not in p.parts]
        subprocess.run(
            ["mount", "--bind", str(rig.top), str(rig.disk)], check=True
        )  # for the umount of the fixture
        assert wrote == [], f"written below the empty mount point: {wrote}"


def test_making_room_spares_what_another_job_is_filling(rig: Rig) -> None:
    """Two clients at a time on a nearly full disk: the second one deletes the fill of the first one."""
    with mounted("xfs", rig.top, size=400 << 20):
        (rig.source / "000first").write_bytes(b"first" * 1000)
        rig.configure("{guard: false}")
        rig.back_up()
        for n in range(20000):
            (rig.source / f"{n:05}").write_bytes(b"x")
        for n in range(60):
            (rig.source / f"z{n:03}").write_bytes(os.urandom(300_000))
        hook = rig.top / "hook"
        hook.write_text(
            "#!/bin/sh\n"
            f"while ! ls {rig.label}/incoming | grep -q ^z0; do sleep 0.1; done\n"
            f"n=$(( $(stat -f -c %a {rig.disk}) * 4096 - 15000000 ))\n"
            f"fallocate -l $n {rig.disk}/.flashback/ballast\n"
        )
        hook.chmod(0o755)
        rig.configure("{period: 1s, guard: false, bandwidth_limit: 3M}")
        text = rig.config.read_text()
        block = (
            text[text.index("  laptop:") :]
            .replace("  laptop:", "  desktop:")
            .replace(
                ", bandwidth_limit: 3M",
                f", before: [{hook}], source: /, after: [/bin/rm, -f, {rig.disk}/.flashback/ballast]",
            )
        )
        rig.config.write_text(text.replace("\nhosts:", "\nconcurrency: 2\nhosts:") + block)
        hosts = (rig.top / "known_hosts").read_text()
        (rig.top / "known_hosts").write_text(hosts + hosts.replace("laptop", "desktop"))
        time.sleep(1.1)
        done = rig.call("pass", "-v")
        print(done.stdout, done.stderr[-3000:])
        assert "laptop/home/daily: SUCCEEDED" in done.stdout, done.stdout
        newest = rig.complete()[-1]
        have, want = ({p.name for p in top.iterdir()} for top in (newest, rig.source))
        assert have == want, f"complete snapshot lacks {len(want - have)} of {len(want)} files"


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_source_that_vanishes_while_it_is_read_is_not_believed(rig: Rig, earlier: int) -> None:
    for number in range(200):
        (rig.source / f"{number:03}").write_bytes(os.urandom(20_000))
    for _ in range(earlier):
        rig.back_up()
        for path in rig.source.iterdir():
            path.write_bytes(os.urandom(20_000))
    rig.configure("{bandwidth_limit: 500K}")
    child = rig.start("backup", "laptop")
    until(lambda: len(list((rig.label / "incoming").glob("0*"))) > 5)
    for path in rig.source.iterdir():
        path.unlink()
    child.communicate()
    assert len(rig.complete()) == earlier


def test_the_command_after_runs_when_the_job_is_stopped(rig: Rig) -> None:
    hook = rig.top / "hook"
    hook.write_text(f"#!/bin/sh\necho $FLASHBACK_WHEN >> {rig.top}/said\n")
    hook.chmod(0o755)
    for n in range(50):
        (rig.source / f"{n:03}").write_bytes(os.urandom(100_000))
    rig.configure(f"{{bandwidth_limit: 500K, before: [{hook}], after: [{hook}]}}")
    daemon = rig.start("run")
    until(lambda: len(list((rig.label / "incoming").glob("0*"))) > 3)
    rig.call("stop", "laptop")
    until(lambda: not rig.rsyncs())
    time.sleep(1)
    daemon.terminate()
    daemon.wait(30)
    assert (rig.top / "said").read_text().split() == ["before", "after"]


def test_a_disk_that_keeps_whole_seconds_gets_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    image, disk = tmp_path / "i", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as f:
        f.truncate(512 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        (disk / ".flashback").mkdir()
        (disk / ".flashback/id").write_text("t")
        bench = Bench(disk, tmp_path / "source")
        some_files(bench.source)
        bench.back_up()
        fill = bench.store.begin(bench.job, pulse)
        done = filled(bench, fill)
        assert done.changed == 0, f"{done.changed} of 30 unchanged files sent again"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_empty_mount_point_is_an_absent_medium(rig: Rig) -> None:
    (rig.source / "stick").mkdir()
    rig.configure("{source: /stick, removable: true}")
    done = rig.call("backup", "laptop")
    assert done.returncode == 75 and rig.complete() == []


def deep(top: Path, room: int) -> None:
    fd = os.open(top, os.O_RDONLY)
    while room > 10:
        n = min(200, room - 1)
        os.mkdir("d" * n, dir_fd=fd)
        new = os.open("d" * n, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = new
        room -= n + 1
    f = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(f, b"deep")
    os.close(f)
    os.close(fd)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_paths_as_long_as_rsync_makes_them_are_stored_again_and_again(kind: str, rig: Rig) -> None:
    with mounted(kind, rig.top):
        deep(rig.source, 4085 - len(str(rig.source)))
        rig.back_up()
        rig.back_up()
        # and after an interruption
        (rig.disk / "laptop/home/daily/incoming.synced").unlink(missing_ok=True)
        rig.back_up()


def test_a_file_with_very_many_names_is_copied_to_the_next_level(rig: Rig) -> None:
    with mounted("ext4", rig.top):
        (rig.source / "0").write_text("1")
        for n in range(1, 33000):
            (rig.source / str(n)).hardlink_to(rig.source / "0")
        text = rig.config.read_text()
        rig.config.write_text(
            text.replace("{daily: {", "{weekly: {from: daily, period: 7d, keep: 2}, daily: {")
        )
        print(rig.call("backup", "laptop/home/daily"))
        done = rig.call("backup", "laptop/home/weekly")
        assert done.returncode == 0, done.stdout[-300:]


def test_a_stop_after_the_commit_is_a_success(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    (rig.label / "incoming.1").mkdir()
    (rig.top / "bin").mkdir()
    (rig.top / "bin/rm").write_text(
        '#!/bin/sh\ncase "$*" in *incoming.1*) sleep 20;; esac\nexec /bin/rm "$@"\n'
    )
    (rig.top / "bin/rm").chmod(0o755)
    env = {"PATH": f"{rig.top}/bin:{os.environ['PATH']}"}
    rig.configure("{period: 1s}")
    time.sleep(1.2)
    child = rig.start("run", env=env)
    until(lambda: len(rig.complete()) == 2)
    time.sleep(0.5)
    child.terminate()
    child.wait(30)
    (run, *_) = json.loads(rig.call("history", "--json").stdout)
    assert run["outcome"] == "SUCCEEDED", run["reason"]


def test_a_program_whose_engine_was_killed_does_not_go_on_beside_the_next(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    text = rig.config.read_text()
    rig.config.write_text(text.replace("{daily: {", "{weekly: {from: daily, period: 7d, keep: 2}, daily: {"))
    rig.call("backup", "laptop/home/daily")
    (rig.top / "bin").mkdir()
    slow = rig.top / "bin/cp"
    slow.write_text(f'#!/bin/sh\necho $$ > {rig.top}/pid\nsleep 5\nexec /usr/bin/cp "$@"\n')
    slow.chmod(0o755)
    env = {"PATH": f"{rig.top}/bin:{os.environ['PATH']}"}
    child = rig.start("backup", "laptop/home/weekly", env=env)
    until((rig.top / "pid").exists)
    time.sleep(0.2)
    child.kill()
    child.wait()
    pid = int((rig.top / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists(), 4)
    assert rig.call("backup", "laptop/home/daily").returncode == 0


def test_unreadable_files_do_not_count_as_kept(rig: Rig) -> None:
    rig.source.chmod(0o755)
    rig.configure("{accept_partial: true}")
    for n in range(200):
        (rig.source / f"{n:03}").write_bytes(os.urandom(100))
    rig.back_up()
    for n in range(200):
        (rig.source / f"{n:03}").write_bytes(os.urandom(100))
        (rig.source / f"{n:03}").chmod(0o600)
    (rig.source / "readable").write_text("1")
    for path in (rig.source, *rig.source.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    text = (rig.top / "authorized").read_text()
    (rig.top / "authorized").write_text(
        text.replace('command="', 'command="setpriv --reuid=65534 --clear-groups ')
    )
    rig.call("backup", "laptop")
    newest = rig.complete()[-1]
    assert len(rig.complete()) == 1, f"{len(list(newest.iterdir()))} of 201 files, the guard said nothing"


def test_another_disk_in_the_place_of_the_first_gets_no_snapshot(rig: Rig, tmp_path: Path) -> None:
    """The second of two disks holds an unfinished tree of the same job: it is named complete."""
    shutil.rmtree(rig.disk / ".flashback")
    image = rig.top / "second.img"
    with image.open("wb") as f:
        f.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(rig.disk)], check=True)
    (rig.disk / ".flashback").mkdir()
    (rig.disk / ".flashback/id").write_text("second\n")
    (rig.label / "incoming").mkdir(parents=True)
    (rig.label / "incoming/half").write_text("half of a backup of last month")
    subprocess.run(["umount", str(rig.disk)], check=True)
    for n in range(20):
        (rig.source / f"{n:03}").write_bytes(os.urandom(100_000))
    with mounted("ext4", rig.top):
        rig.configure("{bandwidth_limit: 500K}")
        child = rig.start("backup", "laptop")
        until(lambda: len(list((rig.label / "incoming").glob("0*"))) > 3)
        subprocess.run(["umount", "-l", str(rig.disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(rig.disk)], check=True)
        out, err = child.communicate(timeout=60)
        print(out, err[-1000:])
        for path in rig.complete():
            assert tree(path) == tree(rig.source), (
                f"{path.name} is believed: {sorted(p.name for p in path.iterdir())}"
            )


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    below = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            below += family(int(entry.parent.name))
    return [pid, *below]


def test_a_laptop_that_leaves_during_its_backup_is_away_and_has_not_failed(rig: Rig) -> None:
    for number in range(50):
        (rig.source / f"{number:03}").write_bytes(os.urandom(100_000))
    rig.configure("{bandwidth_limit: 500K}")
    child = rig.start("backup", "laptop")
    until(lambda: len(list((rig.label / "incoming").glob("0*"))) > 3)
    config = os.fsencode(rig.top / "sshd_config")
    (sshd,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().startswith(b"sshd:") and config in path.read_bytes()
    ]
    for pid in family(sshd):
        os.kill(pid, signal.SIGKILL)
    out, _ = child.communicate()
    assert child.returncode == 75, out
    assert "it left during the backup" in out
    assert json.loads(rig.call("history", "--json").stdout) == []
    assert (rig.label / "incoming").is_dir()
