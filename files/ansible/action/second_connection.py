"""Prove that the way in is open: connect once more, beside the connection that Ansible holds."""

from __future__ import annotations

import time
from typing import Any

from ansible.constants import config
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader

# A connection of mitogen is one that is there already: what it stands for is used, by the whole name, which
# mitogen does not take for its own.
MITOGEN, BUILTIN = "mitogen_", "ansible.builtin."
# ssh takes the first value that it is given of an option: no connection that is there already is shared.
ALONE = "-o ControlMaster=no -o ControlPath=none"
# Seconds in which a server that was told to read its settings again may still answer by the old ones, and seconds
# in which it may not answer.
SETTLING, PATIENCE = 5.0, 15.0


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """The action plugin."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Connect as Ansible does, run `true`, and fail when that is refused."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        fresh = self._fresh(task_vars or {})
        if fresh.transport == "ssh":
            fresh.set_option("ssh_args", ALONE)
            fresh.set_option("reconnection_retries", 0)
        time.sleep(SETTLING)
        until = time.monotonic() + PATIENCE
        refusal = _refusal(fresh)
        while refusal and time.monotonic() < until:
            time.sleep(1)
            refusal = _refusal(fresh)
        if refusal:
            result.update(failed=True, msg=f"A second connection is refused: {refusal}")
        return {**result, "changed": False}

    def _fresh(self, task_vars: dict[str, Any]) -> Any:
        """Return a connection of the kind that Ansible holds, not connected yet."""
        held = self._connection
        name = held._load_name.replace(MITOGEN, BUILTIN)
        fresh = connection_loader.get(name, self._play_context)
        if name == held._load_name:
            fresh.set_options(direct=held.get_options())
        else:
            known = config.get_plugin_vars("connection", fresh._load_name)
            options = {name: self._templar.template(task_vars[name]) for name in known if name in task_vars}
            fresh.set_options(var_options=options)
        return fresh


def _refusal(connection: Any) -> str:
    """Return why a command can not be run over a connection, or nothing."""
    try:
        code, _, said = connection.exec_command("true", sudoable=False)
    except AnsibleError as error:
        code, said = 255, str(error).encode()
    finally:
        connection.close()
    reason = said.decode(errors="replace").strip().splitlines()[-1:]
    return "" if code == 0 else " ".join(reason) or str(code)
