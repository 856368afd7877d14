"""Which drive is meant, and whether it may be written to: a row for every reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_plugins import load

drives = load("module_utils/drives.py")
GIB = drives.GIB

BLANK = drives.Drive(
    path="/dev/sdb",
    size=500 * GIB,
    serial="WD1",
    model="Elements",
    transport="usb",
    hotplug=True,
    names=("usb-WD_Elements_WD1-0:0",),
    blank=True,
)
WANTED = drives.Wanted(id="WD1", smallest=30 * GIB, largest=4000 * GIB)


def holding(*contents: tuple[str, str, str]) -> Any:
    return replace(
        BLANK,
        blank=False,
        contents=tuple(drives.Content(*content[:2], label=content[2]) for content in contents),
    )


def test_an_empty_usb_disk_of_the_right_size_may_be_formatted() -> None:
    assert drives.reasons_against_formatting(BLANK, WANTED) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"transport": "sata"}, "attached by sata, not by USB"),
        ({"transport": ""}, "an unknown bus"),
        ({"hotplug": False}, "can not be unplugged"),
        ({"type": "rom"}, "it is a rom"),
        ({"type": "loop"}, "backup_disk_allow_loop"),
        ({"read_only": True}, "write-protected"),
        ({"size": 8 * GIB}, "8.0 GiB"),
        ({"size": 8000 * GIB}, "8000.0 GiB"),
        ({"mounted": ("/mnt",)}, "mounted on /mnt"),
        ({"blank": False}, "data of an unknown kind"),
    ],
)
def test_each_reason_against_formatting_is_named(change: dict[str, Any], reason: str) -> None:
    reasons = drives.reasons_against_formatting(replace(BLANK, **change), WANTED)
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_what_a_disk_holds_is_named_together_with_the_word_that_destroys_it() -> None:
    (reason,) = drives.reasons_against_formatting(holding(("/dev/sdb1", "ntfs", "Windows")), WANTED)
    assert "holds ntfs" in reason
    assert "backup_disk_wipe=WD1" in reason


def test_the_word_to_wipe_must_name_this_very_disk() -> None:
    full = holding(("/dev/sdb1", "ntfs", ""))
    assert drives.reasons_against_formatting(full, replace(WANTED, wipe="WD2"))
    assert not drives.reasons_against_formatting(full, replace(WANTED, wipe="WD1"))


def test_the_word_to_wipe_does_not_make_a_mounted_or_foreign_disk_eligible() -> None:
    wipe = replace(WANTED, wipe="WD1")
    assert drives.reasons_against_formatting(
        replace(holding(("/dev/sdb1", "ntfs", "")), mounted=("/",)), wipe
    )
    assert drives.reasons_against_formatting(replace(BLANK, transport="nvme"), wipe)


@pytest.mark.parametrize(
    "name", ["WD1", "usb-WD_Elements_WD1-0:0", "/dev/disk/by-id/usb-WD_Elements_WD1-0:0"]
)
def test_a_disk_is_found_by_each_stable_name(name: str) -> None:
    other = replace(BLANK, path="/dev/sdc", serial="WD2", names=())
    assert drives.find([other, BLANK], replace(WANTED, id=name)) is BLANK


@pytest.mark.parametrize("name", ["/dev/sdb", "sdb", "", "Elements", "wd1"])
def test_a_disk_is_not_found_by_names_that_change_or_are_not_its_own(name: str) -> None:
    with pytest.raises(drives.Refusal):
        drives.find([BLANK], replace(WANTED, id=name))


def test_two_disks_with_one_serial_are_refused() -> None:
    with pytest.raises(drives.Refusal, match="2 drives answer"):
        drives.find([BLANK, replace(BLANK, path="/dev/sdc")], WANTED)


def test_a_serial_that_matches_nothing_lists_the_candidates() -> None:
    system = replace(BLANK, path="/dev/sda", serial="SYSTEM", transport="sata")
    with pytest.raises(drives.Refusal, match=r"WD1, 500\.0 GiB, Elements") as refusal:
        drives.find([system, BLANK], replace(WANTED, id="WD9"))
    assert "SYSTEM" not in str(refusal.value)


def test_a_loop_device_is_found_by_its_path() -> None:
    loop = replace(BLANK, path="/dev/loop3", type="loop", serial="", names=())
    wanted = replace(WANTED, id="/dev/loop3", allow_loop=True)
    assert drives.find([loop], wanted) is loop
    assert drives.reasons_against_formatting(loop, wanted) == []


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs"])
def test_a_disk_with_one_usable_file_system_is_adopted(kind: str) -> None:
    drive = holding(("/dev/sdb", "gpt", ""), ("/dev/sdb1", kind, "whatever"))
    assert drives.adoptable(drive, WANTED).path == "/dev/sdb1"


def test_among_several_file_systems_the_label_decides() -> None:
    drive = holding(("/dev/sdb1", "ext4", "music"), ("/dev/sdb2", "ext4", "backup"))
    assert drives.adoptable(drive, WANTED).path == "/dev/sdb2"


def test_several_file_systems_without_the_label_are_refused() -> None:
    with pytest.raises(drives.Refusal, match="several file systems"):
        drives.adoptable(holding(("/dev/sdb1", "ext4", "a"), ("/dev/sdb2", "xfs", "b")), WANTED)


@pytest.mark.parametrize("kind", ["ntfs", "vfat", "crypto_LUKS", "linux_raid_member", "gpt"])
def test_other_contents_are_not_adopted(kind: str) -> None:
    assert drives.adoptable(holding(("/dev/sdb1", kind, "backup")), WANTED) is None


def test_an_encrypted_disk_is_unlocked_where_it_is_wanted_and_else_named() -> None:
    drive = holding(("/dev/sdb", "gpt", ""), ("/dev/sdb1", "crypto_LUKS", "backup-luks"))
    assert drives.adoptable(drive, replace(WANTED, encrypted=True)).path == "/dev/sdb1"
    assert drives.adoptable(drive, WANTED) is None
    assert "backup_disk_encrypted: true unlocks it" in drives.reasons_against_formatting(drive, WANTED)[0]


def test_a_disk_that_is_not_encrypted_is_not_taken_for_one_that_is() -> None:
    drive = holding(("/dev/sdb1", "btrfs", "backup"))
    encrypted = replace(WANTED, encrypted=True)
    assert drives.adoptable(drive, encrypted) is None
    (reason,) = drives.reasons_against_formatting(drive, encrypted)
    assert "btrfs, which is not encrypted; backup_disk_encrypted: false uses it as it is" in reason


def test_encrypted_backups_are_destroyed_only_by_the_word_that_names_their_container() -> None:
    content = drives.Content("/dev/sdb1", "crypto_LUKS", uuid="cccc", label=drives.container_label("backup"))
    full = replace(BLANK, blank=False, contents=(content,))
    for encrypted in (False, True):
        wanted = replace(WANTED, encrypted=encrypted, wipe="WD1")
        assert "backup_disk_wipe=cccc" in drives.reasons_against_formatting(full, wanted)[0]
        assert drives.reasons_against_formatting(full, replace(wanted, wipe="cccc")) == []


def test_the_word_to_wipe_prevents_adoption() -> None:
    drive = holding(("/dev/sdb1", "ext4", "backup"))
    assert drives.adoptable(drive, replace(WANTED, wipe="WD1")) is None


def test_lsblks_words_become_drives() -> None:
    listed = [
        {
            "path": "/dev/sda", "type": "disk", "tran": "usb", "hotplug": True, "ro": False, "size": 7 * GIB,
            "serial": " S1 ", "model": None, "mountpoints": [None],
            "children": [{"path": "/dev/sda1", "type": "part", "mountpoints": ["/", "/var"]}],
        },
        {"path": "/dev/sr0", "type": "rom", "tran": "sata", "hotplug": True, "ro": False, "size": 0,
         "serial": None, "model": None, "mountpoints": [None]},
    ]  # fmt: skip
    (drive,) = drives.from_lsblk(listed)
    assert (drive.serial, drive.mounted, drive.transport) == ("S1", ("/", "/var"), "usb")


def test_a_place_with_signatures_of_two_kinds_is_not_trusted() -> None:
    with pytest.raises(drives.Refusal, match="ext4 and dos at once"):
        drives.adoptable(holding(("/dev/sdb", "ext4", "backup"), ("/dev/sdb", "dos", "")), WANTED)
    with pytest.raises(drives.Refusal, match="linux_raid_member"):
        drives.adoptable(holding(("/dev/sdb1", "ext4", ""), ("/dev/sdb1", "linux_raid_member", "")), WANTED)


def test_a_disk_that_is_in_use_elsewhere_is_not_adopted() -> None:
    stick = replace(holding(("/dev/sdb1", "ext4", "plugroot")), mounted=("/",))
    with pytest.raises(drives.Refusal, match="mounted on /"):
        drives.adoptable(stick, WANTED)
    ours = replace(holding(("/dev/sdb1", "ext4", "backup")), mounted=("/srv/backup",))
    assert drives.adoptable(ours, WANTED).path == "/dev/sdb1"


def test_backups_are_destroyed_only_by_the_word_that_names_these_very_backups() -> None:
    full = replace(
        BLANK, blank=False, contents=(drives.Content("/dev/sdb1", "ext4", uuid="aaaa", label="backup"),)
    )
    assert drives.adoptable(full, replace(WANTED, wipe="WD1")) is not None
    assert "backup_disk_wipe=aaaa" in drives.reasons_against_formatting(full, replace(WANTED, wipe="WD1"))[0]
    assert drives.reasons_against_formatting(full, replace(WANTED, wipe="aaaa")) == []


def test_lsblk_nests_partitions_only_when_it_is_asked_for_names() -> None:
    assert drives.LSBLK_COLUMNS.startswith("NAME,")


@pytest.mark.parametrize("offset", [0, (1 << 20) + 1080, (63 << 20) + 5, (256 << 20) + 511])
def test_a_disk_is_blank_only_when_its_beginning_and_its_end_are_zero(tmp_path: Path, offset: int) -> None:
    """Where a partition table was lost the first MiB is zero; the first partition begins right behind it."""
    sys.modules["ansible.module_utils.drives"] = drives
    module = load("modules/backup_disk.py")
    image = tmp_path / "disk"
    size = (256 << 20) + 512
    with image.open("wb") as disk:
        disk.truncate(size)
    assert module.is_zero(image, size)
    with image.open("r+b") as disk:
        disk.seek(offset)
        disk.write(b"\x53")
    assert not module.is_zero(image, size)
