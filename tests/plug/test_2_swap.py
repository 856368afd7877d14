"""Another disk, encrypted, takes the place of the backup disk with all snapshots; then the first returns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Bench, Run
from workbench import virtual_plug

SERIAL = "VIRTUALDISK02"
PASSPHRASE = "correct horse battery staple"  # noqa: S105 - of this test alone
ENCRYPTED = ("-e", f"backup_disk_id={SERIAL}", "-e", "backup_disk_encrypted=true")
UNLOCK = (*ENCRYPTED, "-e", f"backup_disk_passphrase='{PASSPHRASE}'")
FIND = "find laptop -path '*/daily/2*'"
CONTENT = (
    f"cd /srv/backup && {FIND} -printf '%p %m %U %G %T@ %y %l\\n' | sort | sha256sum"
    f" && {FIND} -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"
)
MOUNTED = "realpath --quiet $(findmnt --noheadings --output SOURCE /srv/backup) || true"


def names(bench: Bench) -> list[str]:
    return [each["name"] for each in json.loads(bench.on_plug("flashback snapshots --json"))]


def image(bench: Bench) -> Path:
    return bench.folder / "disk-2.img"


@pytest.fixture(scope="module")
def before(bench: Bench, first_run: Run) -> Iterator[tuple[list[str], str]]:
    """Plug a second, empty disk in."""
    with image(bench).open("wb") as disk:
        disk.truncate(3 << 30)
    virtual_plug.plug_in(bench.folder, image(bench), SERIAL, "usb-second")
    yield names(bench), bench.on_plug(CONTENT)
    image(bench).unlink()


def test_nothing_begins_before_both_disks_are_named(bench: Bench, before: tuple[list[str], str]) -> None:
    run = bench.play("playbooks/swap.yml", *UNLOCK, expect=2)
    assert "Which disk is the old one" in run.output
    assert run.changed == {"plug": 0}


def test_the_new_disk_holds_all_that_the_old_one_held(bench: Bench, before: tuple[list[str], str]) -> None:
    run = bench.play("playbooks/swap.yml", *UNLOCK, "-e", "backup_disk_old=VIRTUALDISK01")
    assert f"{len(before[0])} snapshots copied" in run.output
    assert bench.on_plug(MOUNTED).startswith("/dev/dm-")
    assert (names(bench), bench.on_plug(CONTENT)) == before
    assert bench.on_plug("systemctl is-active flashback").strip() == "active"
    assert bench.on_plug("journalctl --no-pager | grep -i 'battery staple' || true") == ""


def test_on_the_disk_nothing_can_be_read_without_the_passphrase(
    bench: Bench, before: tuple[list[str], str]
) -> None:
    bench.on_plug("sync")
    found = subprocess.run(
        ["grep", "--text", "--count", "BHRfS_M\\|HOST/VOLUME/LABEL\\|laptop/home", str(image(bench))],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.strip() == "0"


def test_a_disk_that_was_pulled_out_is_locked_and_says_so(
    bench: Bench, before: tuple[list[str], str]
) -> None:
    virtual_plug.pull_disk(bench.folder, "usb-second")
    bench.on_plug("timeout 60 sh -c 'while [ -e /dev/mapper/backup ]; do sleep 1; done'")
    assert bench.on_plug(MOUNTED) == ""
    virtual_plug.plug_in(bench.folder, image(bench), SERIAL, "usb-second")
    bench.on_plug("timeout 60 sh -c 'until [ -e /dev/disk/by-label/backup-luks ]; do sleep 1; done'")
    bench.on_plug("flashback pass --wait >/dev/null 2>&1 || true")
    assert "the backup disk is locked" in bench.on_plug("flashback status || true")


def test_it_is_unlocked_over_ssh_by_its_passphrase_alone(bench: Bench, before: tuple[list[str], str]) -> None:
    bench.on_plug("echo -n wrong | unlock-backup-disk 2>&1", expect=2)
    assert bench.on_plug(MOUNTED) == ""
    bench.on_plug(f"echo -n '{PASSPHRASE}' | unlock-backup-disk")
    assert bench.on_plug(MOUNTED).startswith("/dev/dm-")
    bench.on_plug("flashback backup laptop --wait")
    assert len(names(bench)) == len(before[0]) + 1


def test_the_workbench_unlocks_it_too_and_changes_nothing_else(
    bench: Bench, before: tuple[list[str], str]
) -> None:
    bench.on_plug("systemctl stop backup-disk-lock.service")
    assert bench.on_plug(MOUNTED) == ""
    guess = (*ENCRYPTED, "-e", "backup_disk_passphrase=wrong")
    wrong = bench.play("playbooks/plug.yml", "--tags", "backup_disk", *guess, expect=2)
    assert "the passphrase is not the one of this disk" in wrong.output
    run = bench.play("playbooks/plug.yml", "--tags", "backup_disk", *UNLOCK)
    assert run.changed["plug"] <= 2
    assert bench.on_plug(MOUNTED).startswith("/dev/dm-")
    assert bench.play("playbooks/plug.yml", "--tags", "backup_disk", *UNLOCK).changed == {"plug": 0}


def test_no_key_is_made_for_a_disk_that_has_one(bench: Bench, before: tuple[list[str], str]) -> None:
    run = bench.play("playbooks/plug.yml", "--tags", "backup_disk", *ENCRYPTED, expect=2)
    assert "its key is not on this workbench" in run.output
    assert not (bench.folder / "secrets/backup_disk_key").exists()


def test_the_first_disk_returns_with_what_was_made_meanwhile(
    bench: Bench, before: tuple[list[str], str]
) -> None:
    now = names(bench), bench.on_plug(CONTENT)
    key = bench.folder / "secrets/old_key"
    key.write_text(PASSPHRASE)
    run = bench.play(
        "playbooks/swap.yml", "-e", f"backup_disk_old={SERIAL}", "-e", f"backup_disk_old_key_file={key}"
    )
    assert "1 snapshots copied" in run.output
    assert (names(bench), bench.on_plug(CONTENT)) == now
    assert bench.on_plug(MOUNTED).startswith("/dev/sd")
    assert bench.on_plug("ls /dev/mapper").split() == ["control"]
    virtual_plug.pull_disk(bench.folder, "usb-second")
