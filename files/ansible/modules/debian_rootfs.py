"""Ansible module: a Debian system as a tar archive, built by mmdebstrap and kept in a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.workbench_call import call

DOCUMENTATION = r"""
module: debian_rootfs
short_description: Build a Debian system from signed packages
description: The archive is cached under the hash of its recipe; only a recipe that is new takes time.
options:
  suite: {description: Debian release., type: str, required: true}
  architecture: {description: Debian's name of the architecture., type: str, required: true}
  mirror: {description: Where packages come from., type: str, required: true}
  packages: {description: What the system holds besides the essential packages., type: list, elements: str, required: true}
  kernel: {description: Package of the kernel; none for a container., type: str, default: ""}
  modules: {description: Modules of the kernel that the board needs to reach its stick., type: list, elements: str, default: []}
  device_tree: {description: "The board's device tree, for boards that boot by U-Boot.", type: str, default: ""}
  enabled_units: {description: systemd units that the system starts., type: list, elements: str, default: []}
  masked_units: {description: systemd units that must not run., type: list, elements: str, default: []}
  cache: {description: "Folder of the cache, by default below ~/.cache.", type: path}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Build the plug's system
  debian_rootfs: {suite: bookworm, architecture: amd64, mirror: http://deb.debian.org/debian, packages: [systemd-sysv]}
"""
RETURN = r"""
archive: {description: Path of the tar archive., type: str, returned: success}
folder: {description: Folder that holds it and the kernel's files., type: str, returned: success}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "suite": {"type": "str", "required": True},
            "architecture": {"type": "str", "required": True},
            "mirror": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "kernel": {"type": "str", "default": ""},
            "modules": {"type": "list", "elements": "str", "default": []},
            "device_tree": {"type": "str", "default": ""},
            "enabled_units": {"type": "list", "elements": "str", "default": []},
            "masked_units": {"type": "list", "elements": "str", "default": []},
            "cache": {"type": "path"},
        },
        supports_check_mode=True,
    )

    def work() -> dict[str, Any]:
        from workbench import cache, rootfs

        recipe = rootfs.DebianRecipe(
            suite=module.params["suite"],
            architecture=module.params["architecture"],
            mirror=module.params["mirror"],
            packages=tuple(sorted(set(module.params["packages"]))),
            kernel=module.params["kernel"],
            modules=tuple(module.params["modules"]),
            device_tree=module.params["device_tree"],
            enabled_units=tuple(module.params["enabled_units"]),
            masked_units=tuple(module.params["masked_units"]),
        )
        root = Path(module.params["cache"]) if module.params["cache"] else cache.default_root()
        known = rootfs.cached(recipe, root)
        if module.check_mode and known is None:
            return {"changed": True}
        folder = known or rootfs.build(recipe, root)
        return {"changed": known is None, "folder": str(folder), "archive": str(folder / "rootfs.tar")}

    call(module, work)


if __name__ == "__main__":
    main()
