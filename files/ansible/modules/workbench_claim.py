"""Ansible module: one run at a time works on a virtual plug."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.workbench_call import call

DOCUMENTATION = r"""
module: workbench_claim
short_description: Claim a virtual plug's folder for this run
description: Fails when another run that still lives has claimed it. A run that ended holds no claim.
options:
  folder: {description: Folder of the virtual plug., type: path, required: true}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Claim the virtual plug for this run
  workbench_claim: {folder: /home/me/backup-plug/.plug}
"""
RETURN = "{}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule({"folder": {"type": "path", "required": True}}, supports_check_mode=True)

    def work() -> dict[str, bool]:
        from workbench import claims

        claims.claim(Path(module.params["folder"]))
        return {"changed": False}

    call(module, work)


if __name__ == "__main__":
    main()
