"""Giving files back to a directory, to the client and to another machine, and checking what came."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from flashback import beside, ledger, manifest, picking, proof, restore
from flashback import config as configuration
from flashback.errors import FlashbackError, NotNowError
from flashback.model import Progress, snapshot_time

from .rig import Rig, keygen, tree
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


def bury(top: Path) -> str:
    """Make a file so deep that its path alone is nearly as long as the longest; return that path."""
    names = ["d" * 200] * 20
    folder = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=folder)
        deeper = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    file = os.open("f" * 60, os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.write(file, b"buried")
    os.close(file)
    os.close(folder)
    return "/".join([*names, "f" * 60])


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
    chosen = picking.choose(loaded, "laptop/home", [], "latest")
    restore.restore(loaded, chosen, back, restore.Options(check=False))
    status = (back / "content").stat()
    (back / "content").write_text("2")
    os.utime(back / "content", ns=(status.st_atime_ns, status.st_mtime_ns))
    (back / "mode").chmod(0o600)
    os.chown(back / "owner", 5, 5)
    os.utime(back / "time", ns=(0, (back / "time").stat().st_mtime_ns + 1))
    os.setxattr(back / "xattr", "user.a", b"1")
    os.utime(back / "folder", (0, 0))
    (back / "gone").unlink()
    found = [each.split(": ") for each in proof.faults(loaded, chosen, back, owners=True)]
    assert {path for _, path in found} == {"content", "mode", "owner", "time", "xattr", "folder", "gone"}
    assert [said, name] in found


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
        name: picking.pick(loaded, "laptop/home", name).name
        for name in ("2026-03-01", "before 2026-03-02", "2026-03-02T101010Z")
    }
    assert picked == {
        "2026-03-01": "2026-03-01T121212Z",
        "before 2026-03-02": "2026-03-01T121212Z",
        "2026-03-02T101010Z": "2026-03-02T101010Z",
    }
    with pytest.raises(FlashbackError, match="has no snapshot called 2026-03-03"):
        picking.pick(loaded, "laptop/home", "2026-03-03")


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
    moment = snapshot_time(snapshot.name)
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
    chosen = picking.choose(loaded, "laptop/home", [], "latest")
    moved: list[Path] = []

    def expire(_: Progress) -> None:
        moved[:] = moved or [snapshot.rename(snapshot.with_name(f"expired-{snapshot.name}"))]

    with pytest.raises(NotNowError, match="expired while it was read"):
        restore.restore(loaded, chosen, rig.top / "back", restore.Options(on_progress=expire))
    assert moved


def seal(rig: Rig) -> None:
    """Write the manifests that are missing."""
    loaded = configuration.load(rig.config)
    for job, snapshot in manifest.missing(loaded, loaded.jobs):
        manifest.seal(loaded, job, snapshot)


@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_too_deep_for_rsync_is_named_and_comes_back_by_tar(rig: Rig, sealed: bool) -> None:
    torture(rig.source)
    deep = bury(rig.source)
    rig.back_up()
    if sealed:
        seal(rig)
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"), "--check")
    assert (done.returncode, f"! missing: {deep}\n" in done.stderr) == (1, True)
    assert "can be had with --as tar" in done.stderr
    back = rig.top / "unpacked"
    back.mkdir()
    words = ["restore", "laptop/home", "--as", "tar", "--to", str(rig.top / "home.tar")]
    assert rig.call(*words).returncode == 0
    every = ["--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(["tar", "-xpf", str(rig.top / "home.tar"), *every, "-C", str(back)], check=True)
    loaded = configuration.load(rig.config)
    chosen = picking.choose(loaded, "laptop/home", [], "latest")
    assert list(proof.faults(loaded, chosen, back, owners=True)) == []
    with beside.opened([back]) as (tree,):
        os.truncate(file := os.open(deep, os.O_WRONLY, dir_fd=tree), 3)
        os.close(file)
    assert list(proof.faults(loaded, chosen, back, owners=True)) == [f"content, time differs: {deep}"]


def test_rot_that_nobody_has_noticed_is_found_by_a_restore(rig: Rig) -> None:
    for name in ("a", "b"):
        (rig.source / name).write_text("good")
    snapshot = rig.back_up()
    seal(rig)
    status = (snapshot / "a").stat()
    (snapshot / "a").write_text("g00d")
    os.utime(snapshot / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"))
    assert (done.returncode, done.stderr) == (1, "! content differs: a\n")
    assert rig.call("restore", "laptop/home", "b", "--to", str(rig.top / "b")).returncode == 0
    assert rig.call("restore", "laptop/home", "--to", str(rig.top / "c"), "--no-check").returncode == 0


def test_a_large_restore_is_checked_only_when_told(rig: Rig) -> None:
    (rig.source / "large").write_bytes(bytes(restore.CHEAP_BYTES + 1))
    rig.back_up()
    assert "compared" not in rig.call("restore", "laptop/home", "--to", str(rig.top / "one")).stdout
    assert "compared" in rig.call("restore", "laptop/home", "--to", str(rig.top / "two"), "--check").stdout


def test_what_cannot_be_written_is_named_and_the_rest_comes_back(rig: Rig) -> None:
    for name in ("a", "b"):
        (rig.source / name).write_text(name)
    rig.back_up()
    back = rig.top / "back"
    (back / "a").mkdir(parents=True)
    (back / "a/mine").write_text("stays")
    done = rig.call("restore", "laptop/home", "--to", str(back), "--overwrite")
    assert done.returncode == 1
    assert "! type differs: a\n" in done.stderr
    assert "could not make way for new regular file: a" in done.stderr
    assert leaves(back) == {"a/mine", "b"}


def test_a_full_disk_leaves_no_half_file(rig: Rig) -> None:
    (rig.source / "a").write_text("fits")
    (rig.source / "b").write_bytes(os.urandom(3_000_000))
    rig.back_up()
    small = rig.top / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=True)
    try:
        done = rig.call("restore", "laptop/home", "--to", str(small))
        assert (done.returncode, "No space left" in done.stderr) == (1, True)
        assert leaves(small) == {"a"}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_broken_list_of_damage_turns_nobody_away(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    (rig.disk / ".flashback/verify.db").write_text("no database " * 1000)
    before = tree(rig.disk)
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"))
    assert (done.returncode, "the list of damaged files cannot be read" in done.stderr) == (0, True)
    assert leaves(rig.top / "back") == {"a"}
    assert tree(rig.disk) == before


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


def test_a_check_reaches_the_client(rig: Rig) -> None:
    for name in ("work", "lost"):
        (rig.source / name).write_text("old")
    rig.back_up()
    writable(rig)
    words = ["restore", "laptop/home", "--to-client", "--into", str(rig.top / "returned")]
    (rig.top / "returned/work").write_text("new")
    os.utime(rig.top / "returned/work", (1_700_000_000, 1_700_000_000))
    done = rig.call(*words, "--check")
    assert (done.returncode, "! content, time differs: work\n" in done.stderr) == (1, True)
    done = rig.call(*words, "--check", "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("compared and equal\n")
    assert (rig.top / "returned/work").read_text() == "old"


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
    assert "Its disk may be full" in done.stderr
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
        (["restore", "laptop/home", "--to-client", "--to", "{top}/x"], "not clear"),
        (["restore", "laptop/home", "--to-client", "--as", "tar"], "--as can be used only with --to"),
        (["restore", "laptop/home", "--to-client", "--into", "x"], "no absolute path"),
        (["restore", "laptop/home", "--to", "{top}/x", "--into", "/y"], "only with another machine"),
        (["restore", "laptop/home", "--to", "{top}/x.tar", "--as", "tar", "--dry-run"], "only with files"),
        (["restore", "laptop/home", "--to", "{top}/x.zip", "--as", "zip", "--check"], "only with files"),
        (["restore", "laptop/home", "--to", "-"], "only with --as tar"),
        (["restore", "laptop/home", "--to", "{top}/nowhere/x.tar", "--as", "tar"], "is not a directory"),
        (["restore", "laptop/home", "--to", "{top}/x", "--snapshot", "suspect-x"], "There is none"),
        (["restore", "laptop/home", "--to", "{top}/x", "--snapshot", "before soon"], "is not a day"),
        (
            ["restore", "laptop/home", "--to", "{top}/x", "--snapshot", "before 2001-01-01"],
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
    done = rig.call(*[word.format(top=rig.top) for word in words])
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


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
