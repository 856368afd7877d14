"""Ansible module: many units of systemd at once."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: units
short_description: Enable, start and stop many units of systemd at once
description:
  - On a slow plug each task costs seconds, whatever it does. This is one for all units of a role.
  - systemd reads its units again where one of these is not known yet, or its file has changed.
  - In a rehearsal a unit that is not there yet counts as one that would be started.
options:
  units:
    description: The units, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: The whole name, with its ending., type: str, required: true}
      running: {description: Whether it runs from the start of the plug on., type: bool, default: true}
      generated: {description: Whether a program makes it at each start, so that it can not be enabled., type: bool, default: false}
      momentary: {description: 'Whether others start it and it soon ends: it is enabled or not, and neither started nor stopped.', type: bool, default: false}
      restarted: {description: Whether to start it again although it runs., type: bool, default: false}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Keep the services running
  units:
    units:
      - {name: ssh.service}
      - {name: bluetooth.service, running: false}
"""
RETURN = "{}"

UNIT = {
    "name": {"type": "str", "required": True},
    "running": {"type": "bool", "default": True},
    "generated": {"type": "bool", "default": False},
    "momentary": {"type": "bool", "default": False},
    "restarted": {"type": "bool", "default": False},
}
PROPERTIES = ("LoadState", "UnitFileState", "ActiveState", "NeedDaemonReload")
RUNNING = ("active", "activating", "reloading")


def parsed(text: str) -> list[dict[str, str]]:
    """Return what `systemctl show` says of several units: blocks of NAME=VALUE with an empty line between."""
    blocks = text.strip().split("\n\n")
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def steps(unit: dict[str, Any], is_now: dict[str, str]) -> list[str]:
    """Return the words of systemctl that make a unit what it is to be."""
    words = []
    if not unit["generated"] and unit["running"] != (
        is_now["UnitFileState"] in ("enabled", "static", "alias")
    ):
        words.append("enable" if unit["running"] else "disable")
    if unit["momentary"]:
        return words
    runs = is_now["ActiveState"] in RUNNING
    if unit["running"]:
        words += ["start"] if not runs else ["restart"] if unit["restarted"] else []
    elif runs:
        words.append("stop")
    return words


class Systemd:
    """What is asked of systemctl."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def show(self, names: list[str]) -> list[dict[str, str]]:
        """Return how these units are, in their order."""
        argv = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *names]
        _, said, _ = self._module.run_command(argv, check_rc=True)
        return parsed(said)

    def do(self, word: str, name: str) -> None:
        """Do one thing with one unit."""
        code, _, errors = self._module.run_command(["systemctl", word, "--", name])
        if code != 0:
            reason = " ".join(errors.split())
            self._module.fail_json(
                msg=f"{name} can not be brought to {word}: {reason} See `journalctl -u {name}`"
            )

    def read_again(self) -> None:
        """Let systemd read the files of the units again."""
        self._module.run_command(["systemctl", "daemon-reload"], check_rc=True)


def main() -> None:
    """Run the module."""
    options = {"units": {"type": "list", "elements": "dict", "required": True, "options": UNIT}}
    module = AnsibleModule(options, supports_check_mode=True)
    units, systemd = module.params["units"], Systemd(module)
    names = [unit["name"] for unit in units]
    found = systemd.show(names)
    stale = any(each["NeedDaemonReload"] == "yes" or each["LoadState"] == "not-found" for each in found)
    if stale and not module.check_mode:
        systemd.read_again()
        found = systemd.show(names)
    plan = [
        (word, unit["name"]) for unit, each in zip(units, found, strict=True) for word in steps(unit, each)
    ]
    if not module.check_mode:
        for word, name in plan:
            systemd.do(word, name)
    module.exit_json(changed=bool(plan), done=[f"{word} {name}" for word, name in plan])


if __name__ == "__main__":
    main()
