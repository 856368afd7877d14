"""Giving files back as one tar or zip, to a file or a pipe."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest
from flashback import archive, picking
from flashback import config as configuration
from flashback.errors import FlashbackError
from flashback.gauge import Gauge
from flashback.model import Progress, Snapshot
from flashback.picking import Chosen

from .rig import CLI, Rig, tree
from .test_restore import agony, bury, damage


def loose(top: Path, *paths: str) -> Chosen:
    """Return paths of a tree that is no snapshot."""
    return Chosen(Snapshot(datetime.now(timezone.utc), top), paths or (".",))


def test_a_tar_keeps_everything(rig: Rig) -> None:
    agony(rig.source)
    before = tree(rig.source)
    rig.back_up()
    packed = rig.top / "home.tar"
    assert rig.call("restore", "laptop/home", "--as", "tar", "--to", str(packed)).returncode == 0
    (rig.top / "back").mkdir()
    every = ["--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(["tar", "-xpf", str(packed), *every, "-C", str(rig.top / "back")], check=True)
    assert tree(rig.top / "back") == before
    assert (rig.top / "back/sparse").stat().st_blocks < 100
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    assert "exists already" in rig.call("restore", "laptop/home", "--as", "tar", "--to", str(packed)).stderr


def test_a_tar_of_single_paths_to_a_pipe(rig: Rig) -> None:
    agony(rig.source)
    rig.back_up()
    words = ["restore", "--as", "tar", "--to", "-", "--", "laptop/home", "-dash", "dir"]
    done = subprocess.run([*CLI, "-c", str(rig.config), *words], capture_output=True, check=True)
    listed = subprocess.run(["tar", "-t"], input=done.stdout, capture_output=True, check=True).stdout.decode()
    assert sorted(listed.splitlines()) == ["./-dash", "./dir/", "./dir/a", "./dir/b"]


def test_a_tar_says_that_it_has_no_sockets(rig: Rig, tmp_path: Path) -> None:
    (rig.source / "a").write_text("1")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(rig.source / "ear"))
    rig.back_up()
    done = rig.call("restore", "laptop/home", "--as", "tar", "--to", str(rig.top / "home.tar"))
    assert (done.returncode, "! tar cannot keep sockets" in done.stderr) == (0, True)


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_an_archive_that_cannot_be_written_leaves_no_file_that_looks_whole(rig: Rig, form: str) -> None:
    (rig.source / "a").write_bytes(os.urandom(3_000_000))
    rig.back_up()
    small = rig.top / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=True)
    try:
        done = rig.call("restore", "laptop/home", "--as", form, "--to", str(small / "home"))
        assert (done.returncode, "is not complete" in done.stderr) == (1, True)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.parametrize(("size", "reader"), [(3_000_000, "head -c 9"), (3, "true")])
def test_an_archive_that_nobody_reads_to_its_end_is_no_success(
    rig: Rig, form: str, size: int, reader: str
) -> None:
    (rig.source / "a").write_bytes(os.urandom(size))
    rig.back_up()
    command = f"{' '.join(CLI)} -c {rig.config} restore laptop/home --as {form} --to -"
    script = f"set -o pipefail; {command} | {reader} >{rig.top}/read"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "is not complete" in done.stderr) == (1, True)
    assert done.stderr.count("\n") == 1


def test_bytes_that_are_held_back_are_not_forgotten_on_a_full_disk(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        with pytest.raises(OSError, match="No space left"), (tmp_path / "filler").open("wb") as filler:
            filler.write(bytes(1 << 20))
        with (
            pytest.raises(FlashbackError, match=r"home\.tar is not complete: No space left"),
            archive.fresh(tmp_path / "home.tar") as file,
        ):
            file.write(b"held back")
        assert [path.name for path in tmp_path.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_archive_never_reaches_the_backup_disk_nor_replaces_what_is_no_file(rig: Rig) -> None:
    (rig.source / "a").write_text("precious")
    snapshot = rig.back_up()
    before = tree(rig.disk)
    (rig.top / "trap").symlink_to(snapshot / "a")
    (rig.top / "elsewhere").symlink_to(snapshot)
    os.mkfifo(rig.top / "pipe")
    words = ["restore", "laptop/home", "--as", "tar", "--overwrite", "--to"]
    for place in (rig.top / "trap", rig.top / "pipe"):
        assert "is no regular file" in rig.call(*words, str(place)).stderr
    for place in (snapshot / "a", snapshot / "x.tar", rig.top / "elsewhere/x.tar"):
        assert "is on the backup disk" in rig.call(*words, str(place)).stderr
    assert tree(rig.disk) == before
    assert stat.S_ISFIFO((rig.top / "pipe").stat().st_mode)
    assert not list(rig.top.glob(".*incomplete"))


def test_a_zip_to_standard_output_keeps_what_zip_can(rig: Rig) -> None:
    agony(rig.source)
    (rig.source / "bad\\xff\\xfe").write_text("a name like the escaped one")
    os.utime(rig.source / "dir/b", (10**10, 10**10))
    rig.back_up()
    with (rig.top / "home.zip").open("wb") as file:
        done = subprocess.run(
            [*CLI, "-c", str(rig.config), "restore", "laptop/home", "--as", "zip", "--to", "-"],
            stdout=file, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "! zip cannot keep: device, pipe or socket (2)" in done.stderr
    with zipfile.ZipFile(rig.top / "home.zip") as packed:
        assert packed.testzip() is None
        assert packed.read("dir/a") == b"linked"
        assert packed.read("link") == b"dir/a"
        assert packed.read("new\nline") == b"new\nline"
        assert packed.read("bad\\xff\\xfe_") == b"bad\xff\xfe"
        assert packed.getinfo("suid").external_attr >> 16 & 0o7777 == 0o6711
        assert packed.getinfo("old").date_time == (1980, 1, 1, 0, 0, 0)
        assert packed.getinfo("dir/b").date_time == (2107, 12, 31, 23, 59, 58)
    out = rig.top / "out"
    subprocess.run(["unzip", "-q", "-X", "-K", str(rig.top / "home.zip"), "-d", str(out)], check=True)
    assert (out / "link").readlink() == Path("dir/a")
    assert (out / "holes").read_bytes() == (rig.source / "holes").read_bytes()
    assert (out / "empty/of/everything").is_dir()
    status, origin = (out / "suid").stat(), (rig.source / "suid").stat()
    assert (status.st_mode, int(status.st_mtime)) == (origin.st_mode, int(origin.st_mtime))
    assert ((out / "dir/a").stat().st_uid, (out / "dir/a").stat().st_gid) == (4321, 98765)


def test_a_zip_takes_files_of_more_than_four_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 4_300_000_000)
    (tmp_path / "small").write_text("behind it")
    with (tmp_path / "big.zip").open("wb") as file:
        archive.zip_(loose(tmp_path, "big", "small"), file, Gauge())
    with zipfile.ZipFile(tmp_path / "big.zip") as packed:
        assert packed.getinfo("big").file_size == 4_300_000_000
        assert packed.read("small") == b"behind it"
    tested = subprocess.run(["unzip", "-tqq", str(tmp_path / "big.zip")], capture_output=True, check=False)
    assert tested.returncode == 0, tested.stdout


def test_a_zip_takes_more_entries_than_its_old_form_could_count(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(66_000):
        (tmp_path / "many" / str(number)).touch()
    with (tmp_path / "many.zip").open("wb") as file:
        archive.zip_(loose(tmp_path, "many"), file, Gauge())
    with zipfile.ZipFile(tmp_path / "many.zip") as packed:
        assert len(packed.namelist()) == 66_001


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_files_that_the_disk_does_not_give_are_left_out_and_named(rig: Rig, form: str) -> None:
    odd = os.fsdecode(b"dir/*a\\n\n[\xff")
    (rig.source / "dir").mkdir()
    for name in ("dir/a", odd, "b"):
        (rig.source / name).write_text(name if name == "b" else "1")
    snapshot = rig.back_up()
    damage(rig, snapshot, os.fsencode(odd))
    packed = rig.top / f"home.{form}"
    done = rig.call("restore", "laptop/home", "--as", form, "--to", str(packed), "--json")
    assert (done.returncode, done.stderr) == (1, "")
    made = json.loads(done.stdout)
    assert made["faults"] == ["damaged on the backup disk: dir/*a\\n\\n[\\xff"]
    listing = ["tar", "-tf", str(packed)] if form == "tar" else ["unzip", "-Z1", str(packed)]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {name.removeprefix("./") for name in listed} - {""} == {"dir/", "dir/a", "b"}


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_path_given_twice_or_below_another_is_packed_once(rig: Rig, form: str) -> None:
    (rig.source / "dir").mkdir()
    (rig.source / "dir/a").write_text("1")
    rig.back_up()
    packed = rig.top / f"home.{form}"
    words = ["restore", "laptop/home", "dir/a", "dir", "/dir", "--as", form, "--to", str(packed)]
    assert rig.call(*words).returncode == 0
    listing = ["tar", "-tf", str(packed)] if form == "tar" else ["unzip", "-Z1", str(packed)]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [name.removeprefix("./") for name in listed] == ["dir/", "dir/a"]


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_what_lies_deeper_than_a_path_may_be_is_packed(rig: Rig, form: str) -> None:
    deep = bury(rig.source)
    rig.back_up()
    packed = rig.top / f"home.{form}"
    assert rig.call("restore", "laptop/home", "--as", form, "--to", str(packed)).returncode == 0
    if form == "zip":
        with zipfile.ZipFile(packed) as opened:
            assert opened.read(deep) == b"buried"
        return
    words = ["tar", "-xOf", str(packed), f"./{deep}"]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"buried"


def test_a_tar_is_whole_though_a_backup_links_to_its_files_meanwhile(tmp_path: Path) -> None:
    top = tmp_path / "snapshot"
    top.mkdir()
    (top / "a").write_bytes(os.urandom(20_000_000))
    linked: list[Path] = []

    class Linking(Gauge):
        def more(self, *, files: int = 0, size: int = 0) -> None:
            if size and not linked:
                linked.append(tmp_path / "next")
                linked[0].hardlink_to(top / "a")
            super().more(files=files, size=size)

    with (tmp_path / "packed.tar").open("wb") as file:
        assert archive.tar(loose(top), file, Linking()) == []
    assert linked
    read = subprocess.run(
        ["tar", "-xOf", str(tmp_path / "packed.tar"), "./a"], capture_output=True, check=True
    )
    assert read.stdout == (top / "a").read_bytes()


def test_a_tar_of_a_file_that_shrinks_is_no_success(tmp_path: Path) -> None:
    top = tmp_path / "snapshot"
    top.mkdir()
    (top / "a").write_bytes(os.urandom(20_000_000))

    class Shrinking(Gauge):
        def more(self, *, files: int = 0, size: int = 0) -> None:
            if size:
                os.truncate(top / "a", 100)
            super().more(files=files, size=size)

    with (tmp_path / "packed.tar").open("wb") as file, pytest.raises(FlashbackError, match="shrank"):
        archive.tar(loose(top), file, Shrinking())


def test_the_gauge_tells_files_bytes_percent_rate_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    moments = iter([100.0, 100.1, 102.0, 104.0])
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    gauge = Gauge(told.append, total=1000)
    gauge.more(files=1, size=100)
    gauge.more(files=1, size=100)
    gauge.more(size=900)
    assert told == [Progress(2, 200, 20, 100, 8), Progress(2, 1100, 99, 275, 0)]


def test_the_size_of_what_is_packed_is_known_before(rig: Rig) -> None:
    (rig.source / "dir").mkdir()
    (rig.source / "dir/a").write_text("123")
    (rig.source / "b").write_text("12345")
    rig.back_up()
    loaded = configuration.load(rig.config)
    before = tree(rig.disk)
    assert picking.size(loaded, picking.choose(loaded, "laptop/home", [], "latest")) == 8
    assert picking.size(loaded, picking.choose(loaded, "laptop/home", ["dir"], "latest")) == 3
    assert tree(rig.disk) == before
    (rig.disk / ".flashback/history.db").unlink()
    assert picking.size(loaded, picking.choose(loaded, "laptop/home", [], "latest")) is None
