"""Giving files back in every form, finding versions, comparing snapshots."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from flashback import changes
from flashback.guard import Totals
from flashback.model import Changes

from .rig import CLI, Rig, keygen, tree
from .test_backup import torture


def test_a_tar_keeps_everything(rig: Rig) -> None:
    torture(rig.source)
    before = tree(rig.source)
    rig.back_up()
    packed = rig.top / "home.tar"
    assert rig.call("restore", "laptop/home", "--as", "tar", "--to", str(packed)).returncode == 0
    (rig.top / "back").mkdir()
    every = ["--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(["tar", "-xpf", str(packed), *every, "-C", str(rig.top / "back")], check=True)
    assert tree(rig.top / "back") == before
    assert (rig.top / "back/sparse").stat().st_blocks < 100
    assert "exists already" in rig.call("restore", "laptop/home", "--as", "tar", "--to", str(packed)).stderr


def test_a_zip_to_standard_output_keeps_what_zip_can(rig: Rig) -> None:
    torture(rig.source)
    rig.back_up()
    with (rig.top / "home.zip").open("wb") as file:
        done = subprocess.run(
            [*CLI, "-c", str(rig.config), "restore", "laptop/home", "--as", "zip", "--to", "-"],
            stdout=file, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "! zip cannot keep the device fifo" in done.stderr
    with zipfile.ZipFile(rig.top / "home.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("dir/a") == b"linked"
        assert archive.read("link") == b"dir/a"
        assert archive.read("bad\\xff\\xfe") == b"bad\xff\xfe"
        assert archive.getinfo("suid").external_attr >> 16 & 0o7777 == 0o6711


def test_an_archive_never_goes_through_a_link_nor_onto_the_backup_disk(rig: Rig) -> None:
    (rig.source / "a").write_text("precious")
    snapshot = rig.back_up()
    (rig.top / "link.tar").symlink_to(snapshot / "a")
    words = ["restore", "laptop/home", "--as", "tar", "--overwrite", "--to"]
    assert "is no plain file" in rig.call(*words, str(rig.top / "link.tar")).stderr
    assert "is on the backup disk" in rig.call(*words, str(snapshot / "a")).stderr
    assert "goes with files only" in rig.call(*words, str(rig.top / "x.tar"), "--dry-run").stderr
    assert (snapshot / "a").read_text() == "precious"
    assert not (rig.top / "x.tar").exists()
    assert not list(rig.top.glob(".*unfinished"))


def writable(rig: Rig) -> None:
    """Let a second key write on the client."""
    key = keygen(rig.top / "restore")
    with (rig.top / "authorized").open("a") as file:
        file.write(f'restrict,command="rrsync -wo /" {key}\n')
    (rig.top / "returned").mkdir()
    text = rig.config.read_text().replace("ssh: {", f"ssh: {{restore_key: {rig.top}/restore, ")
    rig.config.write_text(text)


def test_a_restore_to_the_client_is_exact(rig: Rig) -> None:
    torture(rig.source)
    before = tree(rig.source)
    rig.back_up()
    writable(rig)
    done = rig.call("restore", "laptop/home", "--to-client", "--into", str(rig.top / "returned"))
    assert done.returncode == 0, done.stderr
    assert tree(rig.top / "returned") == before
    assert f"to laptop:{rig.top}/returned" in done.stdout


def test_the_reading_key_cannot_write_to_the_client(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    text = rig.config.read_text().replace("ssh: {", f"ssh: {{restore_key: {rig.top}/id, ")
    rig.config.write_text(text)
    (rig.source / "a").unlink()
    done = rig.call("restore", "laptop/home", "--to-client")
    assert done.returncode == 1
    assert 'restrict,command="rrsync -wo /"' in done.stderr
    assert not (rig.source / "a").exists()


def test_without_a_key_for_restores_one_line_says_how_to_make_it(rig: Rig) -> None:
    rig.back_up()
    rig.config.write_text(rig.config.read_text().replace("ssh: {", f"ssh: {{restore_key: {rig.top}/none, "))
    assert "ssh-keygen -t ed25519" in rig.call("restore", "laptop/home", "--to-client").stderr


def test_a_dry_run_writes_nothing(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.back_up()
    done = rig.call("restore", "laptop/home", "--to", str(rig.top / "back"), "--dry-run")
    assert "would be restored" in done.stdout
    assert not (rig.top / "back").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["restore", "laptop/home"], "not clear"),
        (["restore", "laptop/home", "--to-client", "nobody"], "No client is called nobody"),
        (["restore", "laptop/home", "--to", "/tmp/x", "--snapshot", "before soon"], "is not a day"),
        (
            ["restore", "laptop/home", "--to", "/tmp/x", "--snapshot", "before 2001-01-01"],
            "no snapshot before",
        ),
        (["diff", "laptop/home/daily"], "only one snapshot"),
        (["diff", "laptop/home"], "names no label"),
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
    assert [(each["first"], each["last"]) for each in found] == [
        (first.name, second.name),
        (third.name, third.name),
    ]
    assert Path(found[0]["place"]).read_text() == "one"
    assert len(rig.call("find", "thesis").stdout.splitlines()) == 2
    assert rig.call("find", "nothing").returncode == 1


def test_a_diff_names_what_was_added_removed_and_changed(rig: Rig) -> None:
    for name in ("gone", "same", "mode", "content"):
        (rig.source / name).write_text(name)
    (rig.source / os.fsdecode(b"new\nline\xff")).write_text("1")
    one = rig.back_up()
    (rig.source / "gone").unlink()
    (rig.source / "mode").chmod(0o600)
    (rig.source / "content").write_text("changed")
    (rig.source / "folder").mkdir()
    (rig.source / "folder/inside").write_text("1")
    two = rig.back_up()
    found = [json.loads(line) for line in rig.call("diff", "laptop/home/daily", "--json").stdout.splitlines()]
    assert {each["path"]: each["what"] for each in found} == {
        "gone": "removed", "mode": "mode", "content": "content", "folder": "added", "folder/inside": "added",
    }  # fmt: skip
    said = rig.call(
        "diff", f"laptop/home/daily/{one.name}", f"laptop/home/daily/{two.name}", "--content"
    ).stdout
    assert f"{one.name} -> {two.name}: 2 added, 2 changed, 1 removed" in said


def test_a_folder_that_became_a_link_is_not_followed(rig: Rig) -> None:
    (rig.source / "etc").mkdir()
    (rig.source / "etc/mine").write_text("1")
    (rig.source / "etc/sub").mkdir()
    one = rig.back_up()
    (rig.source / "etc/mine").unlink()
    (rig.source / "etc/sub").rmdir()
    (rig.source / "etc").rmdir()
    (rig.source / "etc").symlink_to("/etc")
    assert rig.call("backup", "laptop").returncode == 1  # held back: no file is left
    assert rig.call("accept", "laptop").returncode == 0
    two = rig.complete()[-1]
    for old, new, what in ((one, two, "removed"), (two, one, "added")):
        said = rig.call(
            "diff", f"laptop/home/daily/{old.name}", f"laptop/home/daily/{new.name}", "--json"
        ).stdout
        assert {each["path"]: each["what"] for each in map(json.loads, said.splitlines())} == {
            "etc": "type", "etc/mine": what,
        }  # fmt: skip
    assert changes.walk(one, two) == (Changes(0, 0, 0, 0), Totals(1, 1))
    assert changes.walk(two, one) == (Changes(1, 1, 0, 0), Totals(0, 0))


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
