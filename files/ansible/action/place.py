"""Read and render the files of a role, and let the module of this name put them in their places at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """The action plugin."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give each file its content and call the module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        files = self._task.args.get("files")
        if not isinstance(files, list) or not all(
            isinstance(each, dict) and "path" in each for each in files
        ):
            raise AnsibleActionFail("`files` is a list of places, each with at least its `path`")
        whole = [{**each, "content": self._content(each, task_vars or {})} for each in files]
        said = self._execute_module("place", {**self._task.args, "files": whole}, task_vars=task_vars)
        return {**result, **said}

    def _content(self, file: dict[str, Any], task_vars: dict[str, Any]) -> str | None:
        """Return what a file holds; nothing for what is no file."""
        if "content" in file or file.get("link") or file.get("kind", "file") != "file":
            return file.get("content")
        name = str(file["path"]).lstrip("/")
        try:
            template = self._find_needle("templates", f"{name}.j2")
        except AnsibleError:
            try:
                return Path(self._find_needle("files", name)).read_text(encoding="utf-8")
            except AnsibleError:
                raise AnsibleActionFail(
                    f"The role has neither templates/{name}.j2 nor files/{name}"
                ) from None
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        return str(lookup.run([template], variables=task_vars)[0])
