"""Giving files back in every form, finding versions, comparing snapshots."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flashback import archive, diff, find, ledger, restore
from flashback import config as configuration
from flashback.errors import FlashbackError, NotNowError
from flashback.model import Progress

from .rig import CLI, Rig, keygen, tree
from .test_backup import torture


def agony(top: Path) -> None:
    """Fill a directory with everything that is hard to keep, and with what is harder still."""
    torture(top)
    (top / "empty/of/everything").mkdir(parents=True)
    (top / "deep/").joinpath(*["level"] * 60).mkdir(parents=True)
    (top / "deep/level/file").write_bytes(b"")
    (top / "holes").write_bytes(b"begin")
    with (top / "holes").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"end")
    os.setxattr(top / "dir", "user.name", b"a = b")
    os.setxattr(top / "suid", "trusted.secret", b"\xff\n")
    subprocess.run(["setfacl", "-m", "u:1234:r", str(top / "dir/a")], check=True)
    os.link(top / "link", top / "linked link", follow_symlinks=False)
    os.chown(top / "linked link", 11, 12, follow_symlinks=False)
    (top / "old").write_text("before 1970")
    os.utime(top / "old", ns=(0, -86_400_000_000_000))
    os.utime(top / "empty", ns=(0, 987_654_321_012_345_678))


def leaves(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_a_restore_is_exact_and_checked(rig: Rig) -> None:
    agony(rig.source)
    before = tree(rig.source)
    rig.back_up()
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"), "--check")
    assert done.returncode == 0, done.stderr
    assert tree(rig.top / "back") == before
    assert (rig.top / "back/holes").stat().st_blocks < 100
    assert done.stdout.endswith("compared and equal\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("content", "content differs"),
        ("mode", "mode differs"),
        ("owner", "owner differs"),
        ("time", "time differs"),
        ("xattr", "xattr differs"),
        ("folder", "time differs"),
        ("gone", "missing"),
    ],
)
def test_the_check_finds_what_is_not_as_in_the_snapshot(rig: Rig, name: str, said: str) -> None:
    for each in ("content", "mode", "owner", "time", "xattr", "gone", "fine"):
        (rig.source / each).write_text("1")
    (rig.source / "folder").mkdir()
    rig.back_up()
    back = rig.top / "back"
    loaded = configuration.load(rig.config)
    chosen = restore.choose(loaded, "laptop/home", [], "latest")
    restore.restore(loaded, chosen, back, restore.Options())
    status = (back / "content").stat()
    (back / "content").write_text("2")
    os.utime(back / "content", ns=(status.st_atime_ns, status.st_mtime_ns))
    (back / "mode").chmod(0o600)
    os.chown(back / "owner", 5, 5)
    os.utime(back / "time", ns=(0, (back / "time").stat().st_mtime_ns + 1))
    os.setxattr(back / "xattr", "user.a", b"1")
    os.utime(back / "folder", (0, 0))
    (back / "gone").unlink()
    found = {each.path: each for each in diff.faults(str(chosen.snapshot.path), str(back), ".")}
    assert set(found) == {"content", "mode", "owner", "time", "xattr", "folder", "gone"}
    assert {"removed": "missing"}.get(found[name].what, f"{found[name].what} differs") == said


def test_a_check_reports_a_file_that_rsync_took_for_the_same(rig: Rig) -> None:
    (rig.source / "a").write_text("right")
    snapshot = rig.back_up()
    back = rig.top / "back"
    back.mkdir()
    (back / "a").write_text("wrong")
    moment = (snapshot / "a").stat().st_mtime_ns
    os.utime(back / "a", ns=(moment, moment))
    done = rig.call("restore", "laptop/home", "--to", str(back), "--overwrite", "--check")
    assert (done.returncode, done.stderr) == (1, "! content differs: a\n")
    assert "equal" not in done.stdout
    done = rig.call("restore", "laptop/home", "--to", str(back), "--overwrite", "--check", "--checksum")
    assert done.returncode == 0, done.stderr
    assert (back / "a").read_text() == "right"


def test_a_restore_deletes_nothing(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    back = rig.top / "back"
    back.mkdir()
    (back / "mine").write_text("stays")
    assert rig.call("restore", "laptop/home", "--to", str(back), "--overwrite").returncode == 0
    assert leaves(back) == {"mine", "a"}


def test_a_path_by_way_of_a_link_comes_from_where_it_really_is(rig: Rig) -> None:
    (rig.source / "releases/1").mkdir(parents=True)
    (rig.source / "releases/1/file").write_text("1")
    (rig.source / "current").symlink_to("releases/1")
    rig.back_up()
    back = rig.top / "back"
    assert rig.call("restore", "laptop/home", "current/file", "--to", str(back)).returncode == 0
    assert leaves(back) == {"releases/1/file"}
    assert rig.call("restore", "laptop/home", "current", "--to", str(rig.top / "link")).returncode == 0
    assert leaves(rig.top / "link") == {"current"}


def test_a_restore_over_the_whole_machine_spares_the_backup_disk(rig: Rig) -> None:
    (rig.source / "disk").mkdir(mode=0o700)
    (rig.source / "other").mkdir()
    rig.back_up()
    before = tree(rig.disk)
    done = rig.call("restore", "laptop/home", "--to", str(rig.top), "--overwrite")
    assert (done.returncode, "the backup disk" in done.stderr) == (2, True)
    assert tree(rig.disk) == before
    assert rig.call("restore", "laptop/home", "other", "--to", str(rig.top), "--overwrite").returncode == 0


def test_a_day_names_its_newest_snapshot(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    taken = rig.back_up()
    for name in ("2026-03-01T101010Z", "2026-03-01T121212Z", "2026-03-02T101010Z"):
        subprocess.run(["cp", "-a", str(taken), str(taken.with_name(name))], check=True)
    loaded = configuration.load(rig.config)
    picked = {
        name: restore.pick(loaded, "laptop/home", name).name
        for name in ("2026-03-01", "before 2026-03-02", "2026-03-02T101010Z")
    }
    assert picked == {
        "2026-03-01": "2026-03-01T121212Z",
        "before 2026-03-02": "2026-03-01T121212Z",
        "2026-03-02T101010Z": "2026-03-02T101010Z",
    }
    with pytest.raises(FlashbackError, match="has no snapshot called 2026-03-03"):
        restore.pick(loaded, "laptop/home", "2026-03-03")


def test_a_snapshot_that_was_held_back_can_be_restored_by_its_name(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    snapshot = rig.back_up()
    rig.back_up()
    snapshot.rename(snapshot.with_name(f"suspect-{snapshot.name}"))
    words = [
        "restore",
        "laptop/home",
        "--to",
        str(rig.top / "back"),
        "--snapshot",
        f"suspect-{snapshot.name}",
    ]
    assert rig.call(*words).returncode == 0
    assert leaves(rig.top / "back") == {"a"}


def damage(rig: Rig, snapshot: Path, path: bytes) -> None:
    """Put a file of a snapshot on the list of what is damaged."""
    place = ledger.Place("daily", snapshot.name, path)
    moment = restore.snapshot_time(snapshot.name)
    assert moment is not None
    found = ledger.Damage("laptop", "home", path, "rot", 1, 1, 1, b"d", moment, (place,))
    with ledger.opened(rig.disk) as opened:
        opened.found(found)


def test_a_lost_file_is_named_and_the_rest_comes_back(rig: Rig) -> None:
    for name in ("a", "b"):
        (rig.source / name).write_text(name)
    snapshot = rig.back_up()
    damage(rig, snapshot, b"a")
    (snapshot / "a").unlink()
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"))
    assert (done.returncode, done.stderr) == (1, "! damaged on the backup disk: a\n")
    assert leaves(rig.top / "back") == {"b"}
    assert rig.call("restore", "laptop/home", "b", "--to", str(rig.top / "b")).returncode == 0
    done = rig.call("restore", "laptop/home", "a", "--to", str(rig.top / "a"))
    assert (done.returncode, "damaged and lost" in done.stderr) == (1, True)
    packed = rig.call("restore", "laptop/home", "--as", "tar", "--to", str(rig.top / "x.tar"))
    assert (packed.returncode, "damaged on the backup disk: a" in packed.stderr) == (1, True)


def test_a_snapshot_that_expires_meanwhile_is_no_success(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    snapshot = rig.back_up()
    loaded = configuration.load(rig.config)
    chosen = restore.choose(loaded, "laptop/home", [], "latest")
    moved: list[Path] = []

    def expire(_: Progress) -> None:
        moved[:] = moved or [snapshot.rename(snapshot.with_name(f"expired-{snapshot.name}"))]

    with pytest.raises(NotNowError, match="expired while it was read"):
        restore.restore(loaded, chosen, rig.top / "back", restore.Options(on_progress=expire))
    assert moved


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
    script = f"{' '.join(CLI)} -c {rig.config} restore laptop/home --as {form} --to - | head -c 9 >/dev/null"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "is not complete" in done.stderr) == (1, True)


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
        archive.zip_(tmp_path, ["big", "small"], file)
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
        archive.zip_(tmp_path, ["many"], file)
    with zipfile.ZipFile(tmp_path / "many.zip") as packed:
        assert len(packed.namelist()) == 66_001


def writable(rig: Rig, line: str = 'restrict,command="rrsync -wo /"') -> None:
    """Let a second key write on the client."""
    key = keygen(rig.top / "restore")
    with (rig.top / "authorized").open("a") as file:
        file.write(f"{line} {key}\n")
    (rig.top / "returned").mkdir()
    text = rig.config.read_text().replace("ssh: {", f"ssh: {{restore_key: {rig.top}/restore, ")
    rig.config.write_text(text)


def test_a_restore_to_the_client_is_exact(rig: Rig) -> None:
    agony(rig.source)
    before = tree(rig.source)
    rig.back_up()
    writable(rig)
    done = rig.call("restore", "laptop/home", "--to-client", "--into", str(rig.top / "returned"))
    assert done.returncode == 0, done.stderr
    assert tree(rig.top / "returned") == before
    assert f"to laptop:{rig.top}/returned" in done.stdout


def test_a_client_keeps_its_newer_files_unless_told_otherwise(rig: Rig) -> None:
    for name in ("work", "lost"):
        (rig.source / name).write_text("old")
    rig.back_up()
    writable(rig, f'restrict,command="rrsync -wo {rig.source}"')
    (rig.source / "lost").unlink()
    (rig.source / "work").write_text("a day's work")
    (rig.source / "more").write_text("new")
    done = rig.call("restore", "laptop/home", "--to-client")
    assert done.returncode == 0, done.stderr
    assert "--overwrite replaces them" in done.stderr
    assert (rig.source / "work").read_text() == "a day's work"
    assert (rig.source / "lost").read_text() == "old"
    assert rig.call("restore", "laptop/home", "work", "--to-client", "--overwrite").returncode == 0
    assert (rig.source / "work").read_text() == "old"
    assert (rig.source / "more").read_text() == "new"


def test_another_machine_gets_files_when_its_host_key_is_pinned(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    writable(rig)
    words = [
        "restore",
        "laptop/home",
        "--to-host",
        f"root@127.0.0.1:{rig.top}/returned",
        "--port",
        str(rig.port),
    ]
    refused = rig.call(*words)
    assert (refused.returncode, "no host key of 127.0.0.1 is pinned" in refused.stderr) == (1, True)
    assert leaves(rig.top / "returned") == set()
    known = rig.top / "known_hosts"
    known.write_text(known.read_text() + known.read_text().replace("laptop", "127.0.0.1"))
    done = rig.call(*words)
    assert done.returncode == 0, done.stderr
    assert leaves(rig.top / "returned") == {"a"}
    away = rig.call("restore", "laptop/home", "--to-host", f"laptop:{rig.top}/returned", "--port", "1")
    assert away.returncode == 75


def test_the_reading_key_cannot_write_to_the_client(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    text = rig.config.read_text().replace("ssh: {", f"ssh: {{restore_key: {rig.top}/id, ")
    rig.config.write_text(text)
    (rig.source / "a").unlink()
    done = rig.call("restore", "laptop/home", "--to-client")
    assert done.returncode == 1
    assert 'restrict,command="rrsync -wo /"' in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (rig.source / "a").exists()


def test_a_full_client_is_not_blamed_on_its_key(rig: Rig) -> None:
    (rig.source / "a").write_bytes(os.urandom(3_000_000))
    rig.back_up()
    writable(rig)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(rig.top / "returned")], check=True)
    try:
        done = rig.call("restore", "laptop/home", "--to-client", "--into", str(rig.top / "returned"))
    finally:
        subprocess.run(["umount", "--lazy", str(rig.top / "returned")], check=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "authorized_keys" not in done.stderr


def test_without_a_key_for_restores_one_line_says_how_to_make_it(rig: Rig) -> None:
    rig.back_up()
    rig.config.write_text(rig.config.read_text().replace("ssh: {", f"ssh: {{restore_key: {rig.top}/none, "))
    assert "ssh-keygen -t ed25519" in rig.call("restore", "laptop/home", "--to-client").stderr


def test_a_dry_run_lists_and_writes_nothing(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    (rig.source / "new\nline").write_text("1")
    rig.back_up()
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"), "--dry-run", "--check")
    assert done.stdout.splitlines()[:-1] == ["./", "a", "new\\#012line"]
    assert "would be restored" in done.stdout
    assert not (rig.top / "back").exists()
    made = json.loads(rig.call("restore", "laptop/home", "--to", str(rig.top / "back"), "--json").stdout)
    assert (made["files"], made["written"], made["written_bytes"], made["faults"]) == (3, 2, 2, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["restore", "laptop/home"], "not clear"),
        (["restore", "laptop/home", "--to-host", "nobody"], "No client is called nobody"),
        (["restore", "laptop/home", "--to-host", "-oProxyCommand=x:/y"], "is no machine"),
        (["restore", "laptop/home", "--to-host", "a b@c:/y"], "is no machine"),
        (["restore", "laptop/home", "--to-client", "--to", "/tmp/x"], "not clear"),
        (["restore", "laptop/home", "--to-client", "--as", "tar"], "--as can be used only with --to"),
        (["restore", "laptop/home", "--to-client", "--check"], "only with a directory of this machine"),
        (["restore", "laptop/home", "--to-client", "--into", "x"], "no absolute path"),
        (["restore", "laptop/home", "--to", "/tmp/x", "--into", "/y"], "only with another machine"),
        (["restore", "laptop/home", "--to", "/tmp/x.tar", "--as", "tar", "--dry-run"], "only with files"),
        (["restore", "laptop/home", "--to", "-"], "only with --as tar"),
        (["restore", "laptop/home", "--to", "/nowhere/x.tar", "--as", "tar"], "is not a directory"),
        (["restore", "laptop/home", "--to", "/tmp/x", "--snapshot", "suspect-x"], "There is none"),
        (["restore", "laptop/home", "--to", "/tmp/x", "--snapshot", "before soon"], "is not a day"),
        (
            ["restore", "laptop/home", "--to", "/tmp/x", "--snapshot", "before 2001-01-01"],
            "no snapshot before",
        ),
        (["diff", "laptop/home/daily"], "only one snapshot"),
        (["diff", "laptop"], "names no volume and no label"),
        (["diff", "laptop/home/daily/x", "laptop/home/daily/y", "--from", "x"], "Leave them"),
        (["keep", "laptop/home/daily"], "names no snapshot"),
        (["accept", "laptop/home"], "Nothing of laptop/home is held back"),
    ],
)
def test_what_is_refused(rig: Rig, words: list[str], said: str) -> None:
    rig.back_up()
    done = rig.call(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_version_of_a_file_is_found_once(rig: Rig) -> None:
    (rig.source / "docs").mkdir()
    file = rig.source / "docs" / "thesis.txt"
    file.write_text("one")
    first, second = rig.back_up(), rig.back_up()
    file.write_text("another")
    third = rig.back_up()
    found = [json.loads(line) for line in rig.call("find", "thesis*", "--json").stdout.splitlines()]
    assert [(each["first"], each["last"], each["snapshots"]) for each in found] == [
        (first.name, second.name, 2),
        (third.name, third.name, 1),
    ]
    assert Path(found[0]["place"]).read_text() == "one"
    assert len(rig.call("find", "thesis").stdout.splitlines()) == 2
    assert rig.call("find", "nothing").returncode == 1


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("thesis", {"docs/thesis.txt", "docs/my thesis"}),
        ("*.txt", {"docs/thesis.txt", "a.txt"}),
        ("docs/th", {"docs/thesis.txt"}),
        ("/docs/th*", {"docs/thesis.txt"}),
        ("docs", set()),
        ("d*/*", {"docs/thesis.txt", "docs/my thesis"}),
        ("[ab].txt", {"a.txt"}),
    ],
)
def test_what_a_pattern_matches(tmp_path: Path, pattern: str, matching: set[str]) -> None:
    matches = find.matcher(pattern)
    assert {path for path in ("docs/thesis.txt", "docs/my thesis", "a.txt") if matches(path)} == matching


def test_odd_names_and_times_are_found_on_one_line(rig: Rig) -> None:
    odd = rig.source / os.fsdecode(b"odd\n\xff\x1b")
    odd.write_text("1")
    os.utime(odd, (2**40, 2**40))
    rig.back_up()
    lines = rig.call("find", "odd").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("odd\\n\\xff\\x1b")
    (found,) = (json.loads(line) for line in rig.call("find", "odd", "--json").stdout.splitlines())
    assert os.fsencode(found["path"]) == b"odd\n\xff\x1b"


def grown(rig: Rig) -> tuple[Path, Path]:
    """Return two snapshots that differ in every way."""
    for name in ("gone", "same", "mode", "content", "attribute", "type", "renamed"):
        (rig.source / name).write_text(name)
    (rig.source / os.fsdecode(b"new\nline\xff")).write_text("1")
    (rig.source / "link").symlink_to("a")
    os.utime(rig.source / "renamed", ns=(0, 1_234_567_890_123_456_789))
    (rig.source / "becomes a link").mkdir()
    (rig.source / "becomes a link/inside").write_text("1")
    (rig.source / "elsewhere").mkdir()
    (rig.source / "elsewhere/untouched").write_text("1")
    one = rig.back_up()
    (rig.source / "gone").unlink()
    (rig.source / "mode").chmod(0o600)
    (rig.source / "content").write_text("changed")
    os.setxattr(rig.source / "attribute", "user.a", b"1")
    (rig.source / "type").unlink()
    (rig.source / "type").mkdir()
    (rig.source / "link").unlink()
    (rig.source / "link").symlink_to("b")
    (rig.source / "becomes a link/inside").unlink()
    (rig.source / "becomes a link").rmdir()
    (rig.source / "becomes a link").symlink_to("elsewhere")
    (rig.source / "folder").mkdir()
    (rig.source / "renamed").rename(rig.source / "folder/named")
    (rig.source / "folder/inside").write_text("1")
    return one, rig.back_up()


def test_a_diff_names_all_that_differs_and_nothing_else(rig: Rig) -> None:
    one, two = grown(rig)
    *found, last = (
        json.loads(line) for line in rig.call("diff", "laptop/home/daily", "--json").stdout.splitlines()
    )
    assert {each["path"]: each["what"] for each in found} == {
        "gone": "removed", "mode": "mode", "content": "content", "attribute": "xattr", "type": "type",
        "becomes a link": "type", "becomes a link/inside": "removed", "folder": "added",
        "folder/inside": "added", "folder/named": "moved",
        "link": "content",
    }  # fmt: skip
    assert {each["path"]: each["origin"] for each in found if each["origin"]} == {"folder/named": "renamed"}
    assert last["totals"]["added"] == {"entries": 2, "bytes": 1}
    said = rig.call(
        "diff", f"laptop/home/daily/{one.name}", f"laptop/home/daily/{two.name}", "--content"
    ).stdout
    assert f"{one.name} -> {two.name}: 2 added (1 bytes), " in said
    assert "renamed -> folder/named" in said


def test_a_diff_by_content_reads_what_looks_the_same(rig: Rig) -> None:
    file, moment = rig.source / "a", 1_700_000_000_000_000_001
    file.write_text("before")
    os.utime(file, ns=(moment, moment))
    one = rig.back_up()
    two = one.with_name("2999-01-01T000000Z")
    subprocess.run(["cp", "-a", str(one), str(two)], check=True)
    assert list(diff.differences(str(one), str(two), content=True)) == []
    (two / "a").write_text("behind")
    os.utime(two / "a", ns=(moment, moment))
    assert list(diff.differences(str(one), str(two))) == []
    assert [each.what for each in diff.differences(str(one), str(two), content=True)] == ["content"]


def test_snapshots_of_a_volume_are_compared_by_name_or_day(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    first, second, third = rig.back_up(), rig.back_up(), rig.back_up()
    for words, pair in (
        ([], (second, third)),
        (["--from", first.name], (first, third)),
        (["--to", second.name], (first, second)),
        (["--from", first.name, "--to", second.name], (first, second)),
    ):
        said = rig.call("diff", "laptop/home", *words).stdout
        assert said == f"{pair[0].name} -> {pair[1].name}: nothing differs\n"


def test_files_of_one_size_and_whole_second_have_not_moved(tmp_path: Path) -> None:
    for side, name in (("old", "one"), ("new", "other")):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_text(side)
        os.utime(tmp_path / side / name, (1_700_000_000, 1_700_000_000))
    found = diff.differences(str(tmp_path / "old"), str(tmp_path / "new"))
    assert [(each.what, each.path) for each in found] == [("added", "other"), ("removed", "one")]


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for trees that are too deep for pytest to remove."""
    yield tmp_path
    subprocess.run(["rm", "-rf", "--", str(tmp_path / "old"), str(tmp_path / "new")], check=True)


def test_very_deep_and_very_full_folders_are_walked(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (deep / name).mkdir()
        folder = os.open(deep / name, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=folder)
            deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = deeper
        os.close(folder)
        (deep / name / "full").mkdir()
        for number in range(500):
            (deep / name / "full" / f"{name if number % 50 == 0 else ''}{number}").mkdir()
    monkeypatch.setattr(find, "CROWD", 100)
    tops = [str(deep / "old"), str(deep / "new")]
    walked = list(find.walk(tops))
    assert len(walked) == len(set(walked)) == 1500 + 1 + 490 + 20
    assert len(list(diff.differences(*tops))) == 20
    with (deep / "deep.zip").open("wb") as file:
        archive.zip_(deep, ["old"], file)
    with zipfile.ZipFile(deep / "deep.zip") as packed:
        assert len(packed.namelist()) == 1 + 1500 + 1 + 500


def test_marked_snapshots_stay_and_the_rules_are_explained(rig: Rig) -> None:
    rig.configure("{keep: 1}")
    (rig.source / "a").write_text("1")
    first = rig.back_up()
    assert rig.call("keep", f"laptop/home/daily/{first.name}", "before the move").returncode == 0
    second, third = rig.back_up(), rig.back_up()
    assert rig.complete() == [first, third]
    rows = json.loads(rig.call("retention", "--json").stdout)
    assert {row["snapshot"]: row["kept"] for row in rows}[first.name] == [
        "marked by a person",
        "note: before the move",
    ]
    assert rig.call("unkeep", f"laptop/home/daily/{first.name}").returncode == 0
    assert "nothing keeps it" in rig.call("retention", "laptop").stdout
    rig.back_up()
    assert not first.exists()
    assert not second.exists()
    assert "too little history" in rig.call("forecast").stdout
