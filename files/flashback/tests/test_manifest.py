"""Manifests: what they hold, that only new content is read, that memory stays small."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flashback import config, manifest
from flashback.errors import FlashbackError, NotNowError
from flashback.manifest import ManifestError
from flashback.model import Config, Job, Snapshot, snapshot_time

from .rig import Rig
from .test_backup import torture

NAMES = [f"2026-01-0{day}T000000Z" for day in range(1, 6)]


@pytest.fixture
def plug(tmp_path: Path) -> Config:
    (tmp_path / ".flashback").mkdir()
    (tmp_path / ".flashback/id").write_text("token\n")
    job = Job("host", "volume", "label", "/", ())
    return Config(path=tmp_path / "none", data_dir=tmp_path, jobs=(job,))


def snapshot(plug: Config, number: int, link: int | None = None) -> Snapshot:
    path = plug.data_dir / "host/volume/label" / NAMES[number]
    if link is None:
        path.mkdir(parents=True)
    else:
        shutil.copytree(path.with_name(NAMES[link]), path, copy_function=os.link)
    taken = snapshot_time(NAMES[number])
    assert taken is not None
    return Snapshot(taken, path)


def seal(plug: Config, made: Snapshot) -> manifest.Sealed:
    return manifest.seal(plug, plug.jobs[0], made)


def entries(plug: Config, made: Snapshot) -> list[manifest.Entry]:
    return list(manifest.read(manifest.place(plug, plug.jobs[0], made.name)))


def test_every_entry_is_there_in_order_whatever_its_name(plug: Config) -> None:
    made = snapshot(plug, 0)
    torture(made.path)
    (made.path / "dir-a").mkdir()
    (made.path / "dir0").write_text("0")
    assert seal(plug, made).unreadable == 0
    found = entries(plug, made)
    paths = [each.path for each in found]
    wanted = {os.fsencode(path.relative_to(made.path)) for path in made.path.rglob("*")}
    assert set(paths) == wanted
    assert paths == sorted(paths, key=lambda path: path.split(b"/"))
    kinds = {each.path: each.kind for each in found}
    assert (kinds[b"dir"], kinds[b"link"], kinds[b"fifo"], kinds[b"dir/a"]) == (b"d", b"l", b"o", b"f")
    by_path = {each.path: each for each in found}
    assert by_path[b"suid"].mtime_ns == 1_234_567_890_123_456_789
    assert by_path[b"dir/a"].digest == by_path[b"dir/b"].digest
    assert by_path[b"dir/a"].digest != by_path[b"dir0"].digest


def test_only_new_content_is_read_and_hard_links_once(plug: Config) -> None:
    first = snapshot(plug, 0)
    (first.path / "a").write_bytes(b"a" * 1000)
    (first.path / "b").hardlink_to(first.path / "a")
    (first.path / "c").write_bytes(b"c")
    made = seal(plug, first)
    assert (made.entries, made.bytes, made.read, made.read_bytes) == (3, 2001, 2, 1001)
    second = snapshot(plug, 1, link=0)
    (second.path / "new").write_bytes(b"new")
    made = seal(plug, second)
    assert (made.entries, made.read, made.read_bytes) == (4, 1, 3)


@pytest.mark.parametrize("change", ["inode", "time", "size"])
def test_what_is_not_the_same_file_is_read_again(plug: Config, change: str) -> None:
    first = snapshot(plug, 0)
    (first.path / "a").write_bytes(b"one")
    os.utime(first.path / "a", ns=(5, 5))
    seal(plug, first)
    second = snapshot(plug, 1, link=0)
    if change == "inode":
        (second.path / "a").unlink()
        (second.path / "a").write_bytes(b"two")
        os.utime(second.path / "a", ns=(5, 5))
    elif change == "time":
        (second.path / "a").write_bytes(b"two")
    else:
        (second.path / "a").write_bytes(b"three")
        os.utime(second.path / "a", ns=(5, 5))
    assert seal(plug, second).read == 1
    assert entries(plug, second)[0].digest != entries(plug, first)[0].digest


def test_on_btrfs_a_changed_ctime_counts_too(plug: Config) -> None:
    first = snapshot(plug, 0)
    (first.path / "a").write_bytes(b"one")
    seal(plug, first)
    base = manifest.place(plug, plug.jobs[0], first.name)
    made = manifest.write(first.path, plug.data_dir / "m.gz", b"x", base, use_ctime=True)
    assert made.read == 0
    (first.path / "a").chmod(0o600)
    made = manifest.write(first.path, plug.data_dir / "m.gz", b"x", base, use_ctime=True)
    assert made.read == 1
    assert manifest.write(first.path, plug.data_dir / "m.gz", b"x", base, use_ctime=False).read == 0


@pytest.mark.parametrize("harm", ["cut", "flip", "end", "empty"])
def test_nothing_of_a_broken_manifest_is_believed(plug: Config, harm: str) -> None:
    first = snapshot(plug, 0)
    for number in range(2000):
        (first.path / f"{number}").write_bytes(b"%d" % number)
    seal(plug, first)
    path = manifest.place(plug, plug.jobs[0], first.name)
    data = path.read_bytes()
    if harm == "cut":
        path.write_bytes(data[:-10])
    elif harm == "flip":
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    elif harm == "end":
        whole = gzip.decompress(data)
        path.write_bytes(gzip.compress(whole[: whole.rindex(b"end ")]))
    else:
        path.write_bytes(b"")
    with pytest.raises(ManifestError):
        entries(plug, first)
    second = snapshot(plug, 1, link=0)
    assert seal(plug, second).read == 2000


def test_a_manifest_of_an_expired_snapshot_lends_nothing(plug: Config) -> None:
    first = snapshot(plug, 0)
    (first.path / "a").write_bytes(b"one")
    seal(plug, first)
    second = snapshot(plug, 1, link=0)
    shutil.rmtree(first.path)
    assert seal(plug, second).read == 1


def test_missing_seal_sweep_and_rename(plug: Config) -> None:
    first, second = snapshot(plug, 0), snapshot(plug, 1)
    assert [each.name for _, each in manifest.missing(plug, plug.jobs)] == NAMES[:2]
    seal(plug, first)
    seal(plug, second)
    assert manifest.missing(plug, plug.jobs) == []
    assert manifest.sweep(plug) == []
    shutil.rmtree(first.path)
    assert manifest.sweep(plug) == [f"host/volume/label/{NAMES[0]}.gz"]
    second.path.rename(second.path.with_name(NAMES[2]))
    manifest.renamed(plug, plug.jobs[0], NAMES[1], NAMES[2])
    assert manifest.missing(plug, plug.jobs) == []
    assert [path.name for path in (plug.data_dir / ".flashback/manifests").rglob("*.gz")] == [
        f"{NAMES[2]}.gz"
    ]


def test_an_interrupted_seal_leaves_no_name_and_is_done_again(plug: Config) -> None:
    made = snapshot(plug, 0)
    (made.path / "a").write_bytes(b"a" * 2_000_000)

    def stop() -> None:
        raise FlashbackError("stop")

    with pytest.raises(FlashbackError, match="stop"):
        manifest.seal(plug, plug.jobs[0], made, stop)
    assert not manifest.place(plug, plug.jobs[0], made.name).exists()
    assert seal(plug, made).read == 1


def test_a_snapshot_that_expires_meanwhile_is_no_failure(plug: Config) -> None:
    made = snapshot(plug, 0)
    shutil.rmtree(made.path)
    with pytest.raises(NotNowError):
        seal(plug, made)


def test_reading_goes_on_behind_any_path(plug: Config) -> None:
    made = snapshot(plug, 0)
    for number in range(50):
        (made.path / f"{number:02}").mkdir()
        for each in range(50):
            (made.path / f"{number:02}/{each:02}").touch()
    seal(plug, made)
    path = manifest.place(plug, plug.jobs[0], made.name)
    every = list(manifest.read(path))
    for at in (0, 51, 1333, 2549):
        assert list(manifest.read(path, every[at].path)) == every[at + 1 :]
    assert list(manifest.read(path, b"10-")) == [each for each in every if each.path >= b"11"]


@pytest.mark.parametrize("files", [60_000])
def test_memory_does_not_grow_with_the_number_of_files(plug: Config, files: int) -> None:
    first = snapshot(plug, 0)
    for number in range(files // 500):
        (first.path / f"{number:04}").mkdir()
        for each in range(500):
            os.mknod(first.path / f"{number:04}/{each:04}")
    seal(plug, first)
    second = snapshot(plug, 1, link=0)
    seal(plug, second)
    third = snapshot(plug, 2)
    script = (
        "import sys; from flashback import manifest; from pathlib import Path;"
        "manifest.main(sys.argv[1:]);"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )

    def peak(made: Snapshot) -> int:
        words = [str(plug.data_dir), "host", "volume", "label", made.name]
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
        )
        return int(done.stdout.split()[-1])

    assert peak(second) - peak(third) < 3_000
    assert peak(second) < 40_000


def test_a_real_backup_is_sealed_with_one_new_file_read(rig: Rig) -> None:
    torture(rig.source)
    rig.back_up()
    (rig.source / "more").write_bytes(b"more")
    rig.back_up()
    settings = config.load(rig.config)
    reads = [
        manifest.seal(settings, job, each).read for job, each in manifest.missing(settings, settings.jobs)
    ]
    assert reads[1] == 1
