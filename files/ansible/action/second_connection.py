"""Prove that the way in is open: connect once more, beside the connection that Ansible holds."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader

# ssh takes the first value that it is given of an option: no connection that is there already is shared.
ALONE = "-o ControlMaster=no -o ControlPath=none"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """The action plugin."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Connect as Ansible does, run `true`, and fail when that is refused."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        held = self._connection
        fresh = connection_loader.get(held._load_name, self._play_context)
        fresh.set_options(direct=held.get_options())
        if held._load_name == "ssh":
            fresh.set_option("ssh_args", ALONE)
            fresh.set_option("reconnection_retries", 0)
        try:
            code, _, said = fresh.exec_command("true", sudoable=False)
        except AnsibleError as error:
            code, said = 255, str(error).encode()
        finally:
            fresh.close()
        reason = said.decode(errors="replace").strip().splitlines()[-1:]
        if code != 0:
            result.update(failed=True, msg=f"A second connection is refused: {' '.join(reason) or code}")
        return {**result, "changed": False}
