"""Call the workbench's Python package from a module and report its errors in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ansible.module_utils.basic import AnsibleModule


def call(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> None:
    """Run ``work`` and leave the module with what it returns, or with the words of its WorkbenchError."""
    try:
        from workbench.errors import WorkbenchError
    except ImportError:
        module.fail_json(
            msg="The project's Python environment is not in use. Run `make setup`, then put .venv/bin first on PATH."
        )
    try:
        result = work()
    except WorkbenchError as error:
        module.fail_json(msg=str(error))
    except KeyboardInterrupt:
        module.fail_json(msg="The run was interrupted.")
    module.exit_json(**result)
