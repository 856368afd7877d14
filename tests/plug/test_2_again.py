"""Running everything again changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PROJECT, Bench, Run
from workbench import virtual_plug


def test_a_second_run_changes_nothing_on_any_host(bench: Bench, first_run: Run) -> None:
    again = bench.play("site.yml")
    assert again.changed == {"plug": 0, "laptop": 0}, again.changed_tasks


def test_nor_does_a_fast_one_which_is_faster(bench: Bench, first_run: Run) -> None:
    again = bench.run("make", "plug", "FAST=1")
    assert again.changed == {"plug": 0, "laptop": 0}, again.changed_tasks


def test_a_fast_run_does_not_lock_itself_out_either(bench: Bench, first_run: Run) -> None:
    settings = "/etc/ssh/sshd_config.d/10-plug.conf"
    before = bench.on_plug(f"cat {settings}")
    extra = '{"ssh_extra_settings": ["AllowUsers nobody"]}'
    locked = bench.run(
        "make", "plug", "FAST=1", f"PLAY=playbooks/plug.yml --tags ssh --extra-vars '{extra}'", expect=2
    )
    assert "A second connection is refused" in locked.output
    assert bench.on_plug(f"cat {settings}") == before


def test_after_a_stop_the_same_plug_boots_and_nothing_else_changes(bench: Bench, first_run: Run) -> None:
    before = bench.on_plug("cat /etc/machine-id; flashback snapshots")
    assert virtual_plug.stop(bench.folder)
    assert virtual_plug.pid_of(bench.folder) is None
    again = bench.play("site.yml")
    assert [task.partition(" : ")[0] for task in again.changed_tasks] == ["virtual_plug"], again.changed_tasks
    assert bench.on_plug("cat /etc/machine-id; flashback snapshots") == before


def test_a_plug_that_was_switched_off_had_unmounted_its_disks(bench: Bench, first_run: Run) -> None:
    journal = bench.on_plug("dmesg")
    assert "recovery complete" not in journal
    assert "orphan cleanup" not in journal


@pytest.fixture
def example(bench: Bench, tmp_path: Path) -> list[str]:
    """The example inventory, with the virtual plug in the place of the real one."""
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        f"""
all:
  hosts:
    attic:
      ansible_host: 127.0.0.1
      ansible_port: {bench.environment["PLUG_SSH_PORT"]}
      ansible_ssh_common_args: -F {bench.folder / "ssh_config"}
      backup_disk_id: VIRTUALDISK01
      backup_disk_smallest_gib: 1
"""
    )
    return ["-i", str(PROJECT / "inventories/example"), "-i", str(inventory)]


def test_a_rehearsal_of_the_example_inventory_shows_what_would_change_and_changes_nothing(
    bench: Bench, first_run: Run, example: list[str]
) -> None:
    before = bench.on_plug("sha256sum /etc/flashback/flashback.yml /etc/hostname")
    rehearsal = bench.play("playbooks/plug.yml", *example, "--check", "--diff")
    assert "+  anna:" in rehearsal.output
    assert "flashback : Say what is backed up, when, and how long it is kept" in rehearsal.changed_tasks
    assert bench.on_plug("sha256sum /etc/flashback/flashback.yml /etc/hostname") == before
