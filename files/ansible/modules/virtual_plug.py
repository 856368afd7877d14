"""Ansible module: a plug in QEMU, on or off."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.workbench_call import call

DOCUMENTATION = r"""
module: virtual_plug
short_description: Switch a virtual plug on or off
options:
  folder: {description: Folder with stick.img and its kernel., type: path, required: true}
  state: {description: What it should be., type: str, choices: ["on", "off"], default: "on"}
  ssh_port: {description: Port on 127.0.0.1 that leads to its ssh server., type: int, required: true}
  memory_mib: {description: Memory in MiB., type: int, required: true}
  disk_mib: {description: Size of the backup disk in MiB., type: int, required: true}
  stick_serial: {description: Serial number that the stick shows., type: str, required: true}
  disk_serial: {description: Serial number that the backup disk shows., type: str, required: true}
  acceleration: {description: "auto uses hardware where it was seen to work.", type: str, choices: [auto, kvm, tcg], default: auto}
  boot_seconds: {description: How long the first answer may take., type: int, default: 300}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Switch the virtual plug on
  virtual_plug:
    folder: /home/me/backup-plug/.plug
    ssh_port: 10022
    memory_mib: 256
    disk_mib: 4096
    stick_serial: STICK01
    disk_serial: DISK01
"""
RETURN = "{}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "folder": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["on", "off"], "default": "on"},
            "ssh_port": {"type": "int", "required": True},
            "memory_mib": {"type": "int", "required": True},
            "disk_mib": {"type": "int", "required": True},
            "stick_serial": {"type": "str", "required": True},
            "disk_serial": {"type": "str", "required": True},
            "acceleration": {"type": "str", "choices": ["auto", "kvm", "tcg"], "default": "auto"},
            "boot_seconds": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )

    def work() -> dict[str, bool]:
        from workbench import cache, virtual_plug

        folder = Path(module.params["folder"])
        running = virtual_plug.pid_of(folder) is not None
        if module.check_mode:
            return {"changed": running != (module.params["state"] == "on")}
        if module.params["state"] == "off":
            return {"changed": virtual_plug.stop(folder)}
        plug = virtual_plug.VirtualPlug(
            folder=folder,
            ssh_port=module.params["ssh_port"],
            memory_mib=module.params["memory_mib"],
            disk_size=module.params["disk_mib"] << 20,
            stick_serial=module.params["stick_serial"],
            disk_serial=module.params["disk_serial"],
            acceleration=module.params["acceleration"],
            boot_seconds=module.params["boot_seconds"],
        )
        return {"changed": virtual_plug.start(plug, cache.default_root())}

    call(module, work)


if __name__ == "__main__":
    main()
