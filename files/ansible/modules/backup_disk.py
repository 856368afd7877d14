"""Ansible module: the backup disk, found by a stable name, adopted when it holds data, formatted when it is empty."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.drives import (
    CONTAINER,
    LSBLK_COLUMNS,
    USABLE,
    Content,
    Drive,
    Refusal,
    Wanted,
    adoptable,
    container_label,
    find,
    from_lsblk,
    reasons_against_formatting,
    reasons_against_use,
    word_to_wipe,
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
  encrypted: {description: Whether the file system lies in an encrypted container; by default where there is a passphrase., type: bool}
  passphrase: {description: "What unlocks the encrypted container of the file system; empty for a disk without one.", type: str, default: ""}
  mapped: {description: Name below /dev/mapper under which the content of a container appears., type: str, default: backup}
  adopt: {description: "Whether the disk is used as it is, encrypted or not, and never formatted.", type: bool, default: false}
  cipher: {description: How a new container is encrypted., type: str, default: aes-xts-plain64}
  wipe: {description: Word that lets the content of the disk be destroyed., type: str, default: ""}
  mount: {description: Where the disk belongs. A disk that is mounted elsewhere is refused., type: path, required: true}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Find or format the backup disk
  backup_disk: {id: WD1234, filesystem: ext4, label: backup, smallest_gib: 100, largest_gib: 9000, mount: /srv/backup}
"""
RETURN = r"""
device: {description: "Stable path of the file system, behind its encryption.", type: str, returned: success}
filesystem: {description: Its kind., type: str, returned: success}
uuid: {description: Its UUID., type: str, returned: success}
formatted: {description: Whether this run made it., type: bool, returned: success}
container: {description: "Stable path of the encrypted container, empty without one.", type: str, returned: success}
"""

#: cryptsetup(8), "RETURN CODES": no key fits.
NOT_PERMITTED = 2
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
        """Return the signatures that wipefs finds in one place, each once although LUKS2 has two headers.

        A pure partition table counts as content.
        """
        output = self.run("wipefs", "--no-act", "--json", path).strip()
        found = json.loads(output)["signatures"] if output else []
        contents = [
            Content(path, sign["type"], sign.get("uuid") or "", sign.get("label") or "") for sign in found
        ]
        return list(dict.fromkeys(contents))


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


class Container:
    """An encrypted container (LUKS2) and the name under which its content appears."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._passphrase = tools.module.params["passphrase"]
        self._cipher = tools.module.params["cipher"]
        self.mapped = f"/dev/mapper/{tools.module.params['mapped']}"

    @property
    def unlocked(self) -> bool:
        """Whether its content, or that of another one, appears now."""
        return Path(self.mapped).exists()

    def make(self, place: str, label: str) -> str:
        """Make a container and return the path of its content."""
        # Unlocking takes so much memory as making it did, and a plug has 128 MB.
        memory = ["--pbkdf", "argon2id", "--pbkdf-memory", "32768"]
        # An XTS key is two keys.
        bits = "512" if "-xts-" in self._cipher else "256"
        self._cryptsetup(
            f"Encrypting {place}", "luksFormat", "--batch-mode", "--type", "luks2", *memory,
            "--cipher", self._cipher, "--key-size", bits, "--label", container_label(label), place,
        )  # fmt: skip
        return self.open(place)

    def open(self, place: str) -> str:
        """Unlock a container and return the path of its content; one that is unlocked stays so."""
        if self.holds(place):
            return self.mapped
        if self.unlocked:
            holder = self._holder()
            # The disk was pulled out while it was unlocked.
            if holder or self._tools.module.run_command(["cryptsetup", "close", self.mapped])[0] != 0:
                used = holder or "a disk that was pulled out"
                raise Refusal(f"{self.mapped} belongs to {used} and is in use. Stop what uses it.")
        if not self._passphrase:
            raise Refusal(f"{place} is encrypted, and no passphrase for it is given.")
        self._cryptsetup(f"Unlocking {place}", "open", "--type", "luks", place, Path(self.mapped).name)
        return self.mapped

    def holds(self, place: str) -> bool:
        """Tell whether what is unlocked now is this place."""
        holder = self._holder() if self.unlocked else ""
        return bool(holder) and Path(holder).resolve() == Path(place).resolve()

    def try_key(self, place: str) -> None:
        """Refuse a passphrase that is not the one of this place; nothing is unlocked."""
        if self._passphrase:
            self._cryptsetup(f"Unlocking {place}", "open", "--test-passphrase", "--type", "luks", place)

    def _holder(self) -> str:
        """Return the device of what is unlocked now; nothing when that device is gone."""
        said = self._tools.run("cryptsetup", "status", self.mapped)
        words = [line.split()[1] for line in said.splitlines() if line.split()[:1] == ["device:"]]
        return words[0] if words and words[0] != "(null)" else ""

    def _cryptsetup(self, what: str, *words: str) -> None:
        code, _, errors = self._tools.module.run_command(
            ["cryptsetup", "--key-file", "-", *words], data=self._passphrase, binary_data=True
        )
        if code == NOT_PERMITTED:
            raise Refusal(f"{what} failed: the passphrase is not the one of this disk.")
        if code != 0:
            raise Refusal(f"{what} failed: {errors.strip() or f'cryptsetup ended with {code}'}")


def make_place(tools: Tools, drive: Drive) -> str:
    """Empty the drive, partition it, and return the path of what is to hold the file system."""
    tools.run("wipefs", "--all", "--quiet", drive.path)
    place = drive.path if drive.type == "loop" else make_partition(tools, drive)
    tools.run("wipefs", "--all", "--quiet", place)
    return place


def format_place(tools: Tools, place: str, filesystem: str, label: str) -> Content:
    """Make the file system and return it as it shows itself."""
    maker = {
        # No blocks reserved for root: nothing but backups lives here. Inodes for many small files.
        "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-L", label],
        "btrfs": ["mkfs.btrfs", "--quiet", "--force", "--label", label],
        "xfs": ["mkfs.xfs", "-q", "-f", "-L", label],
    }[filesystem]
    tools.run(*maker, place)
    return only(tools, place, filesystem)


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


@dataclass(frozen=True)
class Found:
    """The file system to use, the stable path to it, the container around it, and whether this run made them."""

    content: Content
    device: str
    container: str = ""
    formatted: bool = False


def stable(content: Content) -> str:
    """Return a path that stays the same."""
    # A loop device has no by-uuid name where no udev runs, as in a container of the tests.
    loop = content.path.startswith("/dev/loop")
    return content.path if loop or not content.uuid else f"/dev/disk/by-uuid/{content.uuid}"


def ensure(tools: Tools, wanted: Wanted, filesystem: str, *, adopt: bool) -> Found:
    """Return the file system to use; make it on an empty disk."""
    drive = tools.inspect(find(tools.drives(), wanted))
    if adopt:
        # A disk that is only read may have been switched to read-only by itself.
        drive = replace(drive, read_only=False)
        wanted = replace(wanted, encrypted=any(content.kind == CONTAINER for content in drive.contents))
    against_use = reasons_against_use(drive, wanted)
    if against_use:
        raise Refusal(f"{drive.describe()} can not be the backup disk: {'; '.join(against_use)}.")
    container = Container(tools)
    adopted = adoptable(drive, wanted)
    if adopted and wanted.encrypted:
        return inside(tools, adopted, container, filesystem, word_to_wipe(drive, wanted.label))
    if adopted:
        return Found(adopted, stable(adopted))
    against_formatting = reasons_against_formatting(drive, wanted)
    if adopt or against_formatting:
        why = "; ".join(against_formatting) or "it is empty"
        raise Refusal(f"{drive.describe()} is not {'a backup disk' if adopt else 'formatted'}: {why}.")
    if tools.module.check_mode:
        made = Content(drive.path, filesystem, label=wanted.label)
        return Found(made, drive.path, formatted=True)
    place = make_place(tools, drive)
    if not wanted.encrypted:
        made = format_place(tools, place, filesystem, wanted.label)
        return Found(made, stable(made), formatted=True)
    made = format_place(tools, container.make(place, wanted.label), filesystem, wanted.label)
    return Found(made, container.mapped, stable(only(tools, place, CONTAINER)), formatted=True)


def inside(tools: Tools, adopted: Content, container: Container, filesystem: str, word: str) -> Found:
    """Return the file system in the container that a disk holds."""
    if tools.module.check_mode and not container.holds(adopted.path):
        container.try_key(adopted.path)
        return Found(Content(container.mapped, filesystem), container.mapped, stable(adopted))
    found = tools.signatures(container.open(adopted.path))
    if len(found) != 1 or found[0].kind not in USABLE:
        held = ", ".join(sorted({content.kind for content in found})) or "nothing that is known"
        raise Refusal(
            f"{adopted.path} is unlocked and holds {held}; to make it anew, run again with -e backup_disk_wipe={word}"
        )
    return Found(found[0], container.mapped, stable(adopted))


def only(tools: Tools, place: str, kind: str) -> Content:
    """Return what was just made."""
    made = [content for content in tools.signatures(place) if content.kind == kind]
    if len(made) != 1:
        raise Refusal(f"{place} does not show the {kind} that was just made on it. Is the disk defective?")
    return made[0]


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
            "encrypted": {"type": "bool"},
            "passphrase": {"type": "str", "default": "", "no_log": True},
            "mapped": {"type": "str", "default": "backup"},
            "adopt": {"type": "bool", "default": False},
            "cipher": {"type": "str", "default": "aes-xts-plain64"},
            "wipe": {"type": "str", "default": ""},
            "mount": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    encrypted = bool(module.params["passphrase"])
    if module.params["encrypted"] is not None:
        encrypted = module.params["encrypted"]
    wanted = Wanted(
        id=module.params["id"],
        smallest=int(module.params["smallest_gib"] * (1 << 30)),
        largest=int(module.params["largest_gib"] * (1 << 30)),
        allow_loop=module.params["allow_loop"],
        wipe=module.params["wipe"],
        label=module.params["label"],
        mount=module.params["mount"],
        encrypted=encrypted,
    )
    tools = Tools(module)
    was_unlocked = Container(tools).unlocked
    try:
        found = ensure(tools, wanted, module.params["filesystem"], adopt=module.params["adopt"])
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))
    module.exit_json(
        changed=found.formatted or bool(found.container and not was_unlocked),
        formatted=found.formatted, device=found.device, container=found.container,
        uuid=found.content.uuid, filesystem=found.content.kind, place=asdict(found.content),
    )  # fmt: skip


if __name__ == "__main__":
    main()
