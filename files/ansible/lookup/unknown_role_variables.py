"""Find variables that bear a role's prefix and that no role knows: most of them are misspelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unknown_role_variables
short_description: variables that bear a role's prefix and that no role knows
description:
  - Compares the variables of the host with the argument specs of all roles of the project.
options: {}
"""

ROLES = Path(__file__).resolve().parents[3] / "roles"


def known_variables(roles: Path) -> dict[str, set[str]]:
    """Return the public variables of each role, as its argument spec names them."""
    known = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        spec = yaml.safe_load(path.read_text())["argument_specs"]["main"]
        known[path.parents[1].name] = set(spec.get("options", {}))
    return known


def unknown(names: list[str], known: dict[str, set[str]]) -> list[str]:
    """Return the names that begin with a role's name and are variables of no role."""
    every = set().union(*known.values())
    prefixes = tuple(f"{role}_" for role in known)
    return sorted(name for name in names if name.startswith(prefixes) and name not in every)


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible ships no types
    """The lookup plugin."""

    def run(self, _terms: Any, variables: dict[str, Any] | None = None, **_options: Any) -> list[str]:
        """Return the unknown names among the host's variables."""
        return unknown([str(name) for name in variables or {}], known_variables(ROLES))
