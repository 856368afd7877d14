"""Ansible module: put many files in their places at once."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: place
short_description: Put many files, folders and links in their places at once
description:
  - On a slow plug each task costs seconds, whatever it does. This is one for all files of a role.
  - What is to be in C(/etc/x) is found as C(templates/etc/x.j2) or C(files/etc/x) of the role; C(content) or C(link)
    say otherwise.
  - Folders above are made where they are missing, open to read for all.
  - systemd reads its units again when one of their files was placed.
options:
  files:
    description: What is to be there, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where it is to be., type: path, required: true}
      kind: {description: What it is to be., choices: [file, folder, absent], type: str, default: file}
      content: {description: What a file holds, where no file of the role has it., type: str}
      link: {description: What a symbolic link at this place points to., type: str}
      mode: {description: 'Permissions; by default 0644, for a folder 0755.', type: str}
      owner: {description: The owner's name., type: str, default: root}
      validate: {description: 'Command that says whether a file is right before it counts, with C(%s) for its path.', type: str}
      once: {description: Whether a file that is there stays as it is., type: bool, default: false}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Keep the journal small
  place:
    files:
      - {path: /etc/systemd/journald.conf.d/10-plug.conf}
      - {path: /usr/local/sbin/keep-journal-tail, mode: "0755"}
"""
RETURN = r"""
placed:
  description: Paths of what was not as it should be.
  type: list
  returned: always
"""

UNITS = "/etc/systemd/system/"

FILE = {
    "path": {"type": "path", "required": True},
    "kind": {"type": "str", "choices": ["file", "folder", "absent"], "default": "file"},
    "content": {"type": "str"},
    "link": {"type": "str"},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "validate": {"type": "str"},
    "once": {"type": "bool", "default": False},
}


class InvalidError(Exception):
    """The program that knows such files refuses one."""


class Place:
    """One path, and what is to be there."""

    def __init__(self, module: AnsibleModule, wanted: dict[str, Any]) -> None:
        self._module = module
        self._wanted = wanted
        self._path = Path(wanted["path"])
        self.diff: dict[str, str] = {}

    def put(self) -> bool:
        """Make it so, except in a rehearsal; return whether it was not."""
        if self._wanted["once"] and self._path.exists():
            return False
        if self._wanted["kind"] == "absent":
            return self._remove()
        if self._wanted["link"] is not None:
            return self._link(self._wanted["link"])
        if self._wanted["kind"] == "folder":
            return self._folder() | self._own("0755")
        return self._file() | self._own("0644")

    def _remove(self) -> bool:
        if not os.path.lexists(self._path):
            return False
        if not self._module.check_mode:
            self._path.unlink()
        return True

    def _link(self, target: str) -> bool:
        if self._path.is_symlink() and str(self._path.readlink()) == target:
            return False
        if not self._module.check_mode:
            make_folder(self._path.parent)
            fresh = self._path.with_name(f".{self._path.name}.new")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.rename(self._path)
        return True

    def _folder(self) -> bool:
        if self._path.is_dir():
            return False
        if not self._module.check_mode:
            make_folder(self._path)
        return True

    def _file(self) -> bool:
        there = self._path.is_file() and not self._path.is_symlink()
        content = (self._wanted["content"] or "").encode()
        before = self._path.read_bytes() if there else b""
        if there and before == content:
            return False
        self.diff = {
            "before_header": str(self._path),
            "after_header": str(self._path),
            "before": before.decode(errors="replace"),
            "after": content.decode(errors="replace"),
        }
        if not self._module.check_mode:
            self._write(content)
        return True

    def _write(self, content: bytes) -> None:
        make_folder(self._path.parent)
        descriptor, fresh = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as target:
                target.write(content)
                target.flush()
                os.fsync(target.fileno())
            self._attributes(fresh, "0644")
            self._validate(fresh)
            Path(fresh).rename(self._path)
        finally:
            Path(fresh).unlink(missing_ok=True)

    def _validate(self, fresh: str) -> None:
        words = shlex.split(self._wanted["validate"] or "")
        if not words:
            return
        code, said, errors = self._module.run_command([word.replace("%s", fresh) for word in words])
        if code != 0:
            raise InvalidError(f"{words[0]} refuses it: {' '.join((errors or said).split())}")

    def _own(self, mode: str) -> bool:
        return self._attributes(str(self._path), mode) if self._path.exists() else False

    def _attributes(self, path: str, mode: str) -> bool:
        owner = self._wanted["owner"]
        changed = self._module.set_mode_if_different(path, self._wanted["mode"] or mode, False)
        changed = self._module.set_owner_if_different(path, owner, changed)
        return bool(self._module.set_group_if_different(path, owner, changed))


def make_folder(path: Path) -> None:
    """Make a folder and those above it, open to read for all whatever the umask says."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir()
    path.chmod(0o755)


def main() -> None:
    """Run the module."""
    options = {"files": {"type": "list", "elements": "dict", "required": True, "options": FILE}}
    module = AnsibleModule(options, supports_check_mode=True)
    placed, diffs = [], []
    for wanted in module.params["files"]:
        place = Place(module, wanted)
        try:
            if place.put():
                placed.append(wanted["path"])
        except (OSError, InvalidError) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
            module.fail_json(msg=f"{wanted['path']} can not be put in its place: {reason}", placed=placed)
        if place.diff:
            diffs.append(place.diff)
    if not module.check_mode and any(path.startswith(UNITS) for path in placed):
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    module.exit_json(changed=bool(placed), placed=placed, diff=diffs)


if __name__ == "__main__":
    main()
