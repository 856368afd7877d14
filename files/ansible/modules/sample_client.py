"""Ansible module: a client to back up where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.workbench_call import call

DOCUMENTATION = r"""
module: sample_client
short_description: A home of real files behind an sshd of its own on the loopback address
options:
  folder: {description: Where the client lives., type: path, required: true}
  port: {description: Port of its sshd on 127.0.0.1., type: int, required: true}
  files: {description: How many files its home gets when it is made., type: int, required: true}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Keep a sample client
  sample_client: {folder: /home/me/backup-plug/.plug/client, port: 10023, files: 3000}
"""
RETURN = r"""
home: {description: The tree to back up., type: str, returned: success}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "folder": {"type": "path", "required": True},
            "port": {"type": "int", "required": True},
            "files": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )

    def work() -> dict[str, Any]:
        from workbench import sample_client

        client = sample_client.SampleClient(
            folder=Path(module.params["folder"]), port=module.params["port"], files=module.params["files"]
        )
        changed = False if module.check_mode else sample_client.start(client)
        return {"changed": changed, "home": str(client.home)}

    call(module, work)


if __name__ == "__main__":
    main()
