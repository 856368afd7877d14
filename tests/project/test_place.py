"""Many files in one task: each as its template says, nothing changed by a second run or by a rehearsal."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]


class Role:
    """A role of one task, played on this machine below a temporary folder."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.there = top / "there"
        self._role = top / "roles/sample"

    def give(self, name: str, text: str) -> None:
        path = self._role / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def play(self, files: list[dict[str, Any]], *words: str) -> dict[str, Any]:
        """Play it and return what the task has said."""
        self.give("tasks/main.yml", yaml.safe_dump([{"name": "Place", "place": {"files": files}}]))
        variables = {"word": "rendered", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        book = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "roles": ["sample"]}]
        (self.top / "play.yml").write_text(yaml.safe_dump(book))
        done = subprocess.run(
            ["ansible-playbook", "-i", "localhost,", "-c", "local", *words, str(self.top / "play.yml")],
            cwd=PROJECT,
            env={
                **os.environ,
                "ANSIBLE_ROLES_PATH": str(self.top / "roles"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        said = json.loads(done.stdout)["plays"][0]["tasks"][-1]["hosts"]["localhost"]
        assert isinstance(said, dict)
        return said


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role(tmp_path)


def test_files_folders_and_links_are_put_in_their_places_once(role: Role) -> None:
    role.give(f"templates{role.there}/settings.j2", "a {{ word }} line\n\n")
    role.give(f"files{role.there}/deep/er/script", "#!/bin/sh\n{{ literally }}\n")
    files: list[dict[str, Any]] = [
        {"path": f"{role.there}/settings"},
        {"path": f"{role.there}/deep/er/script", "mode": "0750"},
        {"path": f"{role.there}/folder", "kind": "folder", "mode": "0700"},
        {"path": f"{role.there}/link", "link": "settings"},
        {"path": f"{role.there}/words", "content": "said\n"},
        {"path": f"{role.there}/gone", "kind": "absent"},
    ]
    role.there.mkdir()
    (role.there / "gone").write_text("old")
    (role.there / "words").symlink_to("elsewhere")
    rehearsed = role.play(files, "--check")
    assert rehearsed["placed"] == [file["path"] for file in files]
    assert sorted(path.name for path in role.there.iterdir()) == ["gone", "words"]
    assert role.play(files)["changed"]
    assert (role.there / "settings").read_text() == "a rendered line\n\n"
    assert (role.there / "settings").stat().st_mode & 0o777 == 0o644
    assert (role.there / "deep/er/script").read_text() == "#!/bin/sh\n{{ literally }}\n"
    assert (role.there / "deep/er/script").stat().st_mode & 0o777 == 0o750
    assert (role.there / "folder").stat().st_mode & 0o777 == 0o700
    assert (role.there / "link").readlink() == Path("settings")
    assert (role.there / "words").read_text() == "said\n"
    assert not (role.there / "words").is_symlink()
    assert not (role.there / "gone").exists()
    assert role.play(files)["placed"] == []


def test_only_what_differs_is_written_and_shown(role: Role) -> None:
    files = [{"path": f"{role.there}/{name}", "content": f"{name}\n"} for name in ("one", "two")]
    role.play(files)
    before = (role.there / "one").stat().st_ino
    (role.there / "two").write_text("other\n")
    (role.there / "one").chmod(0o600)
    said = role.play(files, "--diff")
    assert said["placed"] == [file["path"] for file in files]
    assert [(diff["before"], diff["after"]) for diff in said["diff"]] == [("other\n", "two\n")]
    assert (role.there / "one").stat().st_ino == before
    assert (role.there / "one").stat().st_mode & 0o777 == 0o644


def test_what_is_placed_once_is_left_to_its_owner(role: Role) -> None:
    files = [{"path": f"{role.there}/keys", "content": "", "once": True, "mode": "0600"}]
    role.play(files)
    assert (role.there / "keys").stat().st_mode & 0o777 == 0o600
    (role.there / "elsewhere").write_text("of the clients\n")
    (role.there / "keys").unlink()
    (role.there / "keys").symlink_to("elsewhere")
    assert role.play(files)["placed"] == []
    assert (role.there / "keys").readlink() == Path("elsewhere")
    assert (role.there / "keys").read_text() == "of the clients\n"


def test_folders_above_can_be_read_by_all_whatever_the_umask(role: Role) -> None:
    before = os.umask(0o077)
    try:
        role.play(
            [
                {"path": f"{role.there}/a/b/file", "content": ""},
                {"path": f"{role.there}/c/d", "kind": "folder"},
            ]
        )
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in role.there.rglob("*")}
    assert modes == {"a": 0o755, "b": 0o755, "file": 0o644, "c": 0o755, "d": 0o755}


def test_what_cannot_be_placed_is_named(role: Role) -> None:
    role.there.write_text("no folder")
    said = role.play([{"path": f"{role.there}/file", "content": "x"}])
    assert said["msg"] == f"{role.there}/file can not be put in its place: File exists: {role.there}"
    role.there.unlink()
    said = role.play([{"path": f"{role.there}/file", "content": "x", "owner": "nobody-of-that-name"}])
    assert "nobody-of-that-name" in said["msg"]
    assert not list(role.there.iterdir())
    said = role.play([{"path": "/etc/absent"}])
    assert "neither templates/etc/absent.j2 nor files/etc/absent" in said["msg"]


def test_what_its_program_refuses_never_counts(role: Role) -> None:
    files = [{"path": f"{role.there}/rules", "content": "good\n", "validate": "grep -q good %s"}]
    assert role.play(files)["changed"]
    said = role.play([{**files[0], "content": "bad\n"}])
    assert said["msg"] == f"{role.there}/rules can not be put in its place: grep refuses it: "
    assert [path.read_text() for path in role.there.iterdir()] == ["good\n"]
