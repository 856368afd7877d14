"""Decide which drive is meant, and whether it may be written to.

Facts go in (what lsblk and wipefs tell, and what the inventory says), a list of reasons comes out;
an empty list means yes.  No device is touched here, so each rule can be tested with a row of a table.

Sacred: a drive that holds anything is never formatted unless the run names its serial as the word to
wipe it, and a drive that is not certain to be the one that is meant is never written to at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 1 << 30

#: What to ask lsblk for.  NAME makes it nest partitions below their drive; without it none is seen to be mounted.
LSBLK_COLUMNS = "NAME,PATH,TYPE,TRAN,HOTPLUG,RO,SIZE,SERIAL,MODEL,MOUNTPOINTS"
USABLE = ("btrfs", "ext4", "xfs")
CONTAINER = "crypto_LUKS"


@dataclass(frozen=True)
class Content:
    """What a place on a drive holds, as its own signatures say."""

    path: str
    kind: str
    """File system, RAID, LUKS or partition table, by the name that wipefs uses."""
    uuid: str = ""
    label: str = ""


@dataclass(frozen=True)
class Drive:
    """One whole drive."""

    path: str
    size: int
    serial: str = ""
    model: str = ""
    type: str = "disk"
    transport: str = ""
    hotplug: bool = False
    read_only: bool = False
    names: tuple[str, ...] = ()
    """Stable names, below /dev/disk/by-id."""
    mounted: tuple[str, ...] = ()
    """Mount points of the drive and of everything on it."""
    contents: tuple[Content, ...] = ()
    blank: bool = False
    """No signature anywhere, and its first bytes are zero."""

    def describe(self) -> str:
        """Return the drive in words, for lists of candidates."""
        serial = f"serial {self.serial}" if self.serial else "no serial"
        return f"{self.path} ({serial}, {self.size / GIB:.1f} GiB, {self.model or 'no model name'})"


@dataclass(frozen=True)
class Wanted:
    """What the inventory says about the drive."""

    id: str
    """Serial number, name below /dev/disk/by-id, or path of a loop device."""
    smallest: int
    largest: int
    allow_loop: bool = False
    wipe: str = ""
    """Word that lets the drive's content be destroyed: see ``word_to_wipe``."""
    label: str = "backup"
    """Label of the file system that holds backups."""
    mount: str = "/srv/backup"
    """Where that file system belongs."""
    encrypted: bool = False
    """Whether that file system lies in an encrypted container."""


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """The drive can not be used; the text says why and what to do."""


def from_lsblk(devices: list[dict[str, Any]]) -> list[Drive]:
    """Return the whole drives of lsblk's JSON, asked for LSBLK_COLUMNS in bytes."""
    return [
        Drive(
            path=device["path"],
            size=int(device["size"] or 0),
            serial=(device["serial"] or "").strip(),
            model=(device["model"] or "").strip(),
            type=device["type"],
            transport=device["tran"] or "",
            hotplug=bool(device["hotplug"]),
            read_only=bool(device["ro"]),
            mounted=tuple(_mount_points(device)),
        )
        for device in devices
        if device["type"] in ("disk", "loop")
    ]


def _mount_points(device: dict[str, Any]) -> list[str]:
    points = [point for point in device.get("mountpoints") or [] if point]
    for child in device.get("children") or []:
        points += _mount_points(child)
    return points


def find(drives: list[Drive], wanted: Wanted) -> Drive:
    """Return the one drive that the inventory names; refuse when there is none or more than one."""
    named = wanted.id.removeprefix("/dev/disk/by-id/")
    matches = [
        drive
        for drive in drives
        if named
        and (
            drive.serial == named
            or named in drive.names
            or (drive.type == "loop" and drive.path == wanted.id)
        )
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        found = "; ".join(drive.describe() for drive in matches)
        raise Refusal(
            f"{len(matches)} drives answer to '{wanted.id}': {found}. Name one of them below /dev/disk/by-id."
        )
    candidates = [drive for drive in drives if not reasons_against_use(drive, wanted)]
    listed = "; ".join(drive.describe() for drive in candidates) or "none that could serve"
    raise Refusal(f"No drive has the serial or the name '{wanted.id}'. Plugged in: {listed}.")


def reasons_against_use(drive: Drive, wanted: Wanted) -> list[str]:
    """Return why this drive can not be the backup disk at all."""
    reasons = []
    if drive.type == "loop":
        if not wanted.allow_loop:
            reasons.append("it is a loop device, which is used only where backup_disk_allow_loop says so")
    elif drive.type != "disk":
        reasons.append(f"it is a {drive.type}, not a disk")
    else:
        if drive.transport != "usb":
            reasons.append(f"it is attached by {drive.transport or 'an unknown bus'}, not by USB")
        if not drive.hotplug:
            reasons.append("it can not be unplugged")
    if drive.read_only:
        reasons.append("it is write-protected")
    if not wanted.smallest <= drive.size <= wanted.largest:
        reasons.append(
            f"it has {drive.size / GIB:.1f} GiB and the inventory allows "
            f"{wanted.smallest / GIB:.1f} to {wanted.largest / GIB:.1f} GiB"
        )
    return reasons


def container_label(label: str) -> str:
    """Return the label of the container that holds the file system of that label: two of one name would hide each other."""
    return f"{label}-luks"


def word_to_wipe(drive: Drive, label: str) -> str:
    """Return the word that lets this drive be wiped.

    It is the drive's serial; for a drive that holds backups it is the UUID of their file system, so that a
    word that was left in an inventory can not destroy them at a later run.
    """
    labels = (label, container_label(label))
    backups = [content.uuid for content in drive.contents if content.label in labels and content.uuid]
    return backups[0] if backups else drive.serial or drive.path


def reasons_against_formatting(drive: Drive, wanted: Wanted) -> list[str]:
    """Return why this drive must not be formatted."""
    reasons = reasons_against_use(drive, wanted)
    if drive.mounted:
        reasons.append(f"it is mounted on {', '.join(drive.mounted)}")
    word = word_to_wipe(drive, wanted.label)
    if not drive.blank and wanted.wipe != word:
        kinds = {content.kind for content in drive.contents}
        held = ", ".join(sorted(kinds)) or "data of an unknown kind"
        otherwise = ""
        if wanted.encrypted and kinds.intersection(USABLE):
            otherwise = ", which is not encrypted; backup_disk_encrypted: false uses it as it is"
        elif not wanted.encrypted and CONTAINER in kinds:
            otherwise = "; backup_disk_encrypted: true unlocks it"
        reasons.append(
            f"it holds {held}{otherwise}; to destroy that, run again with -e backup_disk_wipe={word}"
        )
    return reasons


def adoptable(drive: Drive, wanted: Wanted) -> Content | None:
    """Return what of this drive is used as it is, or None when the drive is to be formatted.

    That is a file system, or the encrypted container of one.

    One usable file system is adopted; among several, the one that bears the backup disk's label.  A place that
    shows signatures of different kinds is a remnant or a RAID member, and is never trusted.
    """
    if wanted.wipe and wanted.wipe == word_to_wipe(drive, wanted.label):
        return None
    elsewhere = [point for point in drive.mounted if point != wanted.mount]
    kinds = (CONTAINER,) if wanted.encrypted else USABLE
    label = container_label(wanted.label) if wanted.encrypted else wanted.label
    usable = [content for content in drive.contents if content.kind in kinds]
    if usable and elsewhere:
        raise Refusal(f"{drive.describe()} is in use: it is mounted on {', '.join(elsewhere)}.")
    for content in usable:
        others = sorted(
            {other.kind for other in drive.contents if other.path == content.path} - {content.kind}
        )
        if others:
            raise Refusal(
                f"{content.path} shows {content.kind} and {', '.join(others)} at once, so what it holds is not certain. "
                "Name another disk, or remove the signature that is a remnant with wipefs."
            )
    labelled = [content for content in usable if content.label == label]
    if len(usable) == 1:
        return usable[0]
    if len(labelled) == 1:
        return labelled[0]
    if usable:
        found = ", ".join(f"{content.path} ({content.kind}, label '{content.label}')" for content in usable)
        raise Refusal(
            f"{drive.describe()} holds several file systems: {found}. Label the one to use '{label}'."
        )
    return None
