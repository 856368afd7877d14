"""Names are moved from one tree into another, whatever is in the trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from flashback.listing import UnclearError
from flashback.store.moving import clear, join

LONG_AGO = 1_600_000_000 * 10**9 + 7


class Both:
    """What was fetched, the tree that it goes to, and a place that neither has to do with."""

    def __init__(self, top: Path) -> None:
        self.fetched, self.tree, self.outside = (top / name for name in ("fetched", "tree", "outside"))
        for folder in (self.fetched, self.tree, self.outside):
            (folder / "folder").mkdir(parents=True)
            (folder / "folder/file").write_text(folder.name)


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def read(tree: Path) -> dict[str, str]:
    return {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}


def test_only_what_is_named_is_taken_over(both: Both) -> None:
    (both.fetched / "folder/more").write_text("fetched")
    (both.fetched / "new").mkdir()
    (both.fetched / "new/file").write_text("fetched")
    join(both.fetched, both.tree, [b"folder", b"folder/more", b"new", b"new/file", b"vanished"])
    assert read(both.tree) == {"folder/file": "tree", "folder/more": "fetched", "new/file": "fetched"}


def test_a_folder_becomes_like_the_fetched_one(both: Both) -> None:
    here, there = both.tree / "folder", both.fetched / "folder"
    for path, other in ((here, "gone"), (there, "come")):
        os.setxattr(path, f"user.{other}", b"1")
        os.setxattr(path, "user.both", path.parent.name.encode())
    os.chown(there, 1234, 4321)
    for words in (["-m", "u:1500:rwx"], ["-d", "-m", "g:1600:rx"]):
        subprocess.run(["setfacl", *words, str(there)], check=True)
    there.chmod(0o2750)
    (there / "moved").write_text("x")
    os.utime(there, ns=(LONG_AGO, LONG_AGO))
    names = ["system.posix_acl_access", "system.posix_acl_default", "user.both", "user.come"]
    wanted = {name: os.getxattr(there, name) for name in names}
    join(both.fetched, both.tree, [b".", b"folder", b"folder/moved"])
    assert {name: os.getxattr(here, name) for name in os.listxattr(here)} == wanted
    found = here.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 4321, 0o2750)
    assert found.st_mtime_ns == LONG_AGO


@pytest.mark.parametrize("name", ["fetched", "tree"])
def test_nothing_outside_is_moved_or_replaced_through_a_link(both: Both, name: str) -> None:
    side = getattr(both, name)
    (side / "folder/file").unlink()
    (side / "folder").rmdir()
    (side / "folder").symlink_to(both.outside / "folder")
    join(both.fetched, both.tree, [b"folder/file"])
    assert read(both.outside) == {"folder/file": "outside"}
    with pytest.raises(UnclearError, match="something else"):
        join(both.fetched, both.tree, [b"folder", b"folder/file"])
    assert read(both.outside) == {"folder/file": "outside"}


def test_nothing_outside_is_taken_away_through_a_link(both: Both) -> None:
    (both.tree / "link").symlink_to(both.outside)
    clear(both.tree, [b"link/folder/file", b"link/folder", b"folder/file"])
    assert read(both.outside) == {"folder/file": "outside"}
    assert read(both.tree) == {}


def test_what_became_something_else_is_told(both: Both) -> None:
    (both.fetched / "folder/file").unlink()
    (both.fetched / "folder").rmdir()
    (both.fetched / "folder").write_text("a file now")
    with pytest.raises(UnclearError, match="something else"):
        join(both.fetched, both.tree, [b"folder"])
    with pytest.raises(UnclearError, match="more than was listed"):
        clear(both.tree, [b"folder"])
