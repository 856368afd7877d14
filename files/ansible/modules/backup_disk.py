"""Ansible module: the backup disk, found by a stable name, adopted when it holds data, formatted when it is empty."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.drives import (
    LSBLK_COLUMNS,
    Content,
    Drive,
    Refusal,
    Wanted,
    adoptable,
    find,
    from_lsblk,
    reasons_against_formatting,
    reasons_against_use,
)

DOCUMENTATION = r"""
module: backup_disk
short_description: Find the backup disk and see that it holds a file system
description:
  - A disk with a usable file system is adopted as it is. An empty disk is partitioned, labelled and formatted.
  - A disk with anything else on it is refused unless I(wipe) names its serial.
options:
  id: {description: "Serial number, name below /dev/disk/by-id, or path of a loop device.", type: str, required: true}
  filesystem: {description: What an empty disk gets., type: str, choices: [ext4, btrfs, xfs], required: true}
  label: {description: Label of the file system., type: str, required: true}
  smallest_gib: {description: The disk has at least this size., type: float, required: true}
  largest_gib: {description: The disk has at most this size., type: float, required: true}
  allow_loop: {description: Whether a loop device will do., type: bool, default: false}
  wipe: {description: Word that lets the content of the disk be destroyed., type: str, default: ""}
  mount: {description: Where the disk belongs. A disk that is mounted elsewhere is refused., type: path, required: true}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Find or format the backup disk
  backup_disk: {id: WD1234, filesystem: ext4, label: backup, smallest_gib: 100, largest_gib: 9000, mount: /srv/backup}
"""
RETURN = r"""
device: {description: Stable path of the file system., type: str, returned: success}
filesystem: {description: Its kind., type: str, returned: success}
uuid: {description: Its UUID., type: str, returned: success}
formatted: {description: Whether this run made it., type: bool, returned: success}
"""

MIB = 1 << 20
#: How much of the beginning of a disk must be zero before it counts as blank, and how many places beyond it.
#: A lost partition table alone leaves the first MiB empty, with a file system right behind it.
FIRST_MIBS = 64
SAMPLES = 64


class Tools:
    """The programs that look at drives and write to them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def run(self, *command: str) -> str:
        """Run a program and return its output; a failure ends the module."""
        code, output, errors = self.module.run_command(list(command))
        if code != 0:
            self.module.fail_json(msg=f"{' '.join(command)} failed: {(errors or output).strip()}")
        return str(output)

    def drives(self) -> list[Drive]:
        """Return every drive of this machine, without its contents."""
        listed = self.run("lsblk", "--json", "--bytes", "--output", LSBLK_COLUMNS)
        names = by_id()
        return [
            replace(drive, names=tuple(names.get(drive.path, ())))
            for drive in from_lsblk(json.loads(listed)["blockdevices"])
        ]

    def inspect(self, drive: Drive) -> Drive:
        """Return the drive with what its own signatures say, read from the drive and from no cache."""
        listed = json.loads(self.run("lsblk", "--json", "--list", "--output", "PATH,TYPE", drive.path))
        paths = [
            device["path"] for device in listed["blockdevices"] if device["type"] in ("disk", "loop", "part")
        ]
        contents = [content for path in paths for content in self.signatures(path)]
        return replace(
            drive, contents=tuple(contents), blank=not contents and is_zero(Path(drive.path), drive.size)
        )

    def signatures(self, path: str) -> list[Content]:
        """Return the signatures that wipefs finds in one place; a pure partition table counts as content."""
        output = self.run("wipefs", "--no-act", "--json", path).strip()
        found = json.loads(output)["signatures"] if output else []
        return [
            Content(path, sign["type"], sign.get("uuid") or "", sign.get("label") or "") for sign in found
        ]


def is_zero(path: Path, size: int) -> bool:
    """Tell whether the beginning, the end, and places spread over a device hold nothing but zeros."""
    beginning = range(0, min(FIRST_MIBS * MIB, size), MIB)
    spread = range(0, size, max(MIB, size // SAMPLES))
    with path.open("rb") as device:
        for offset in sorted({*beginning, *spread, max(0, size - MIB)}):
            device.seek(offset)
            if device.read(MIB).strip(b"\0"):
                return False
    return True


def by_id() -> dict[str, list[str]]:
    """Return the stable names of each device."""
    names: dict[str, list[str]] = {}
    folder = Path("/dev/disk/by-id")
    for link in sorted(folder.iterdir()) if folder.is_dir() else []:
        names.setdefault(str(link.resolve()), []).append(link.name)
    return names


def format_drive(tools: Tools, drive: Drive, filesystem: str, label: str) -> str:
    """Make the file system and return the path of the place that holds it."""
    tools.run("wipefs", "--all", "--quiet", drive.path)
    place = drive.path if drive.type == "loop" else make_partition(tools, drive)
    tools.run("wipefs", "--all", "--quiet", place)
    maker = {
        # No blocks reserved for root: nothing but backups lives here. Inodes for many small files.
        "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-L", label],
        "btrfs": ["mkfs.btrfs", "--quiet", "--force", "--label", label],
        "xfs": ["mkfs.xfs", "-q", "-f", "-L", label],
    }[filesystem]
    tools.run(*maker, place)
    return place


def make_partition(tools: Tools, drive: Drive) -> str:
    """Give the drive a GPT with one partition and return the partition's path."""
    code, _, errors = tools.module.run_command(
        ["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", drive.path],
        data="label: gpt\ntype=linux\n",
    )
    if code != 0:
        tools.module.fail_json(msg=f"Partitioning {drive.describe()} failed: {errors.strip()}")
    tools.run("udevadm", "settle", "--timeout=30")
    for _ in range(50):
        listed = json.loads(tools.run("lsblk", "--json", "--list", "--output", "PATH,TYPE", drive.path))
        parts = [device["path"] for device in listed["blockdevices"] if device["type"] == "part"]
        if len(parts) == 1 and Path(parts[0]).exists():
            return str(parts[0])
        time.sleep(0.2)
    return str(
        tools.module.fail_json(
            msg=f"The new partition of {drive.describe()} did not appear. Unplug it and try again."
        )
    )


def ensure(tools: Tools, wanted: Wanted, filesystem: str, label: str) -> tuple[Content, bool]:
    """Return the file system to use and whether it is new."""
    drive = tools.inspect(find(tools.drives(), wanted))
    against_use = reasons_against_use(drive, wanted)
    if against_use:
        raise Refusal(f"{drive.describe()} can not be the backup disk: {'; '.join(against_use)}.")
    adopted = adoptable(drive, wanted)
    if adopted:
        return adopted, False
    against_formatting = reasons_against_formatting(drive, wanted)
    if against_formatting:
        raise Refusal(f"{drive.describe()} is not formatted: {'; '.join(against_formatting)}.")
    if tools.module.check_mode:
        return Content(drive.path, filesystem, label=label), True
    place = format_drive(tools, drive, filesystem, label)
    made = [content for content in tools.signatures(place) if content.kind == filesystem]
    if len(made) != 1:
        raise Refusal(
            f"{place} does not show the {filesystem} that was just made on it. Is the disk defective?"
        )
    return made[0], True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "id": {"type": "str", "required": True},
            "filesystem": {"type": "str", "choices": ["ext4", "btrfs", "xfs"], "required": True},
            "label": {"type": "str", "required": True},
            "smallest_gib": {"type": "float", "required": True},
            "largest_gib": {"type": "float", "required": True},
            "allow_loop": {"type": "bool", "default": False},
            "wipe": {"type": "str", "default": ""},
            "mount": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = Wanted(
        id=module.params["id"],
        smallest=int(module.params["smallest_gib"] * (1 << 30)),
        largest=int(module.params["largest_gib"] * (1 << 30)),
        allow_loop=module.params["allow_loop"],
        wipe=module.params["wipe"],
        label=module.params["label"],
        mount=module.params["mount"],
    )
    try:
        content, formatted = ensure(
            Tools(module), wanted, module.params["filesystem"], module.params["label"]
        )
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))
    # A loop device has no by-uuid name where no udev runs, as in a container.
    loop = content.path.startswith("/dev/loop")
    device = content.path if loop or not content.uuid else f"/dev/disk/by-uuid/{content.uuid}"
    module.exit_json(
        changed=formatted, formatted=formatted, device=device, uuid=content.uuid, filesystem=content.kind,
        place=asdict(content),
    )  # fmt: skip


if __name__ == "__main__":
    main()
