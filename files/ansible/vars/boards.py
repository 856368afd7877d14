"""Give every host the facts of its board: files/boards/GROUP.yml holds the variables of the group GROUP.

The facts of a board belong to the project and not to one inventory, and Ansible looks for group_vars
beside an inventory or a playbook only.  Variables of a host win over these, as over any group's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.inventory.group import Group
from ansible.plugins.vars import BaseVarsPlugin

DOCUMENTATION = """
name: boards
short_description: variables of the boards, from files/boards
version_added: "0.1.0"
description: A file files/boards/GROUP.yml is read for each inventory group of that name.
options: {}
"""

BOARDS = Path(__file__).resolve().parents[2] / "boards"


class VarsModule(BaseVarsPlugin):  # type: ignore[misc]  # Ansible ships no types
    """Read the file of a group's board."""

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        """Return the variables of those entities that are groups with a board's file."""
        super().get_vars(loader, path, entities)
        found: dict[str, Any] = {}
        for entity in entities if isinstance(entities, list) else [entities]:
            board = BOARDS / f"{entity.name}.yml"
            if isinstance(entity, Group) and board.exists():
                found.update(
                    loader.load_from_file(
                        str(board), cache="all" if cache else "none", trusted_as_template=True
                    )
                )
        return found
