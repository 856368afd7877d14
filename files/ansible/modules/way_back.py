"""Ansible module: keep a way back while the way into a machine is changed."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: way_back
short_description: Keep a way back while the way into a machine is changed
description:
  - Before the change, C(armed) saves files and starts a timer of systemd that puts them back and runs commands.
  - After the new way in was tried, C(dropped) stops the timer. C(taken) goes back at once.
  - So a change that locks Ansible out ends by itself. It does not outlast a reboot.
  - What an armed way back holds is not replaced, so that one that was interrupted leads to what worked last.
options:
  name: {description: What is changed; part of the timer's name., type: str, required: true}
  state: {description: What to do., choices: [armed, dropped, taken], type: str, required: true}
  files: {description: Files to save; one that is not there is removed on the way back., type: list, elements: path, default: []}
  commands: {description: Commands that make the old files count again., type: list, elements: str, default: []}
  seconds: {description: After how long the timer goes back., type: int, default: 120}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Keep a way back
  way_back:
    name: ssh
    state: armed
    files: [/etc/ssh/sshd_config.d/10-plug.conf]
    commands: [systemctl reload ssh.service]
"""
RETURN = "{}"

FOLDER = Path("/run/way-back")


def script(folder: Path, files: list[str], commands: list[str]) -> str:
    """Return what leads back: the saved files, then the commands, of which each is tried."""
    lines = ["#!/bin/sh"]
    for number, path in enumerate(files):
        saved, target = shlex.quote(str(folder / str(number))), shlex.quote(path)
        lines.append(f"if [ -e {saved} ]; then cp -a {saved} {target}; else rm -f {target}; fi")
    return "\n".join([*lines, *commands, f"rm -rf {shlex.quote(str(folder))}", ""])


def save(folder: Path, files: list[str], commands: list[str]) -> None:
    """Keep the files and write the script, unless an earlier way back is still armed."""
    if folder.exists():
        return
    fresh = folder.with_name(f".{folder.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700, parents=True)
    for number, path in enumerate(files):
        if Path(path).exists():
            kept = fresh / str(number)
            shutil.copy2(path, kept)
            status = Path(path).stat()
            os.chown(kept, status.st_uid, status.st_gid)
    (fresh / "script").write_text(script(folder, files, commands), encoding="utf-8")
    fresh.rename(folder)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "required": True, "choices": ["armed", "dropped", "taken"]},
            "files": {"type": "list", "elements": "path", "default": []},
            "commands": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    if not module.check_mode:
        _work(module, module.params)
    module.exit_json(changed=True)


def _work(module: AnsibleModule, params: dict[str, Any]) -> None:
    folder, unit = FOLDER / params["name"], f"way-back-{params['name']}"
    module.run_command(["systemctl", "stop", f"{unit}.timer"])
    if params["state"] == "armed":
        save(folder, params["files"], params["commands"])
        begin = ["systemd-run", f"--unit={unit}", "--collect", f"--on-active={params['seconds']}"]
        begin += ["--timer-property=AccuracySec=1", "--", "sh", str(folder / "script")]
        module.run_command(begin, check_rc=True)
    elif params["state"] == "taken" and folder.exists():
        module.run_command(["sh", str(folder / "script")], check_rc=True)
    elif params["state"] == "dropped":
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
