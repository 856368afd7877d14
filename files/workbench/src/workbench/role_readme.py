"""Write the README of each role from its argument spec and its defaults, so that they can not disagree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

NO_DEFAULT = object()


def render(role: str, spec: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Return the README of a role."""
    lines = [f"# Role `{role}`: {spec['short_description'][0].lower()}{spec['short_description'][1:]}", ""]
    lines += [f"- {sentence}" for sentence in spec["description"]]
    lines += ["", "| variable | default | what it is for |", "|---|---|---|"]
    for name, option in spec.get("options", {}).items():
        purpose = " ".join(str(option["description"]).split())
        if option.get("choices"):
            purpose += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        lines.append(f"| `{name}` | {_default(defaults.get(name, NO_DEFAULT))} | {purpose} |")
    lines += [
        "",
        "This page is made from `meta/argument_specs.yml` and `defaults/main.yml` by `make role-readmes`.",
        "",
    ]
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is NO_DEFAULT:
        return "none: the inventory names it"
    text = str(value).strip()
    if "\n" in text or len(text) > 80:
        return "see `defaults/main.yml`"
    if isinstance(value, bool):
        return f"`{text.lower()}`"
    return f"`{text}`" if text else "empty"


def readmes(roles: Path) -> dict[Path, str]:
    """Return the path and the content that the README of every role should have."""
    made = {}
    for spec in sorted(roles.glob("*/meta/argument_specs.yml")):
        role = spec.parents[1]
        defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
        main = yaml.safe_load(spec.read_text())["argument_specs"]["main"]
        made[role / "README.md"] = render(role.name, main, defaults)
    return made


def main() -> int:
    """Write the READMEs of the roles in the folder that is named."""
    for path, text in readmes(Path(sys.argv[1])).items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
