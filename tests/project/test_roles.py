"""What is true of every role, read from its files."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from workbench import role_readme

PROJECT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent for path in (PROJECT / "roles").glob("*/meta"))


def spec(role: Path) -> dict[str, dict[str, object]]:
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"][
        "options"
    ]
    assert isinstance(options, dict)
    return options


def defaults(role: Path) -> dict[str, object]:
    found = yaml.safe_load((role / "defaults/main.yml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_is_in_the_spec(role: Path) -> None:
    assert set(defaults(role)) <= set(spec(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_has_a_default_or_says_that_there_is_none(role: Path) -> None:
    text = (role / "defaults/main.yml").read_text()
    unexplained = [name for name in spec(role) if name not in defaults(role) and f"# {name}: " not in text]
    assert not unexplained


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_is_introduced_by_a_comment(role: Path) -> None:
    lines = (role / "defaults/main.yml").read_text().splitlines()
    bare = [
        line for before, line in pairwise(lines) if re.match(r"[a-z_]+:", line) and not before.startswith("#")
    ]
    assert not bare


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_public_variables_bear_the_name_of_the_role(role: Path) -> None:
    assert all(name.startswith(f"{role.name}_") for name in spec(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_main_task_file_is_a_table_of_contents(role: Path) -> None:
    tasks = yaml.safe_load((role / "tasks/main.yml").read_text())
    allowed = {
        "ansible.builtin.import_tasks",
        "ansible.builtin.include_tasks",
        "ansible.builtin.include_vars",
    }
    assert all(allowed & set(task) for task in tasks)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_handlers_are_called_by_what_they_listen_to(role: Path) -> None:
    path = role / "handlers/main.yml"
    handlers = yaml.safe_load(path.read_text()) if path.exists() else []
    assert all("listen" in handler for handler in handlers)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_roles_that_know_one_family_of_systems_know_the_other(role: Path) -> None:
    assert (role / "vars/Debian.yml").exists() == (role / "vars/Archlinux.yml").exists()


@pytest.mark.parametrize("path", role_readme.readmes(PROJECT / "roles"), ids=lambda path: path.parent.name)
def test_the_readme_is_what_the_spec_says(path: Path) -> None:
    assert path.read_text() == role_readme.readmes(PROJECT / "roles")[path], "run `make role-readmes`"
