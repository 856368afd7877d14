"""Ansible module: the image of a bootable USB stick, from a system's archive and an overlay."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.workbench_call import call

DOCUMENTATION = r"""
module: stick_image
short_description: Write the image of a bootable stick
description: Partitions, formats and fills an image file, reads it back, and only then gives it its name.
options:
  archive: {description: tar archive of the system., type: path, required: true}
  overlay: {description: Folder whose files are laid over the system., type: path, required: true}
  image: {description: The image file. It must not exist., type: path, required: true}
  size_mib: {description: Size of the stick in MiB., type: int, required: true}
  label: {description: Label of its file system., type: str, required: true}
  compatible: {description: "How the board's device tree names it, for boards that boot by U-Boot.", type: str, default: ""}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Write the stick
  stick_image: {archive: /tmp/rootfs.tar, overlay: /tmp/overlay, image: /tmp/stick.img, size_mib: 2048, label: plugroot}
"""
RETURN = "{}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "archive": {"type": "path", "required": True},
            "overlay": {"type": "path", "required": True},
            "image": {"type": "path", "required": True},
            "size_mib": {"type": "int", "required": True},
            "label": {"type": "str", "required": True},
            "compatible": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )

    def work() -> dict[str, bool]:
        from workbench import stick

        wanted = stick.Stick(
            archive=Path(module.params["archive"]),
            overlay=Path(module.params["overlay"]),
            image=Path(module.params["image"]),
            size=module.params["size_mib"] * stick.MIB,
            label=module.params["label"],
            compatible=module.params["compatible"],
        )
        if wanted.image.exists():
            return {"changed": False}
        if not module.check_mode:
            stick.pack(wanted)
        return {"changed": True}

    call(module, work)


if __name__ == "__main__":
    main()
