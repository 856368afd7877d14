"""From nothing to the first backup, and what the plug is like then."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import trees
from conftest import Bench, Run


def test_the_run_ends_with_the_table_the_snapshot_the_light_and_what_to_type_next(first_run: Run) -> None:
    assert "laptop-home-daily" in first_run.output
    assert "/srv/backup/laptop/home/daily/2" in first_run.output
    assert "green" in first_run.output
    for command in ("make ssh", "make status", "make stop", "make clean"):
        assert command in first_run.output


def test_it_boots_from_a_usb_stick_and_keeps_backups_on_a_usb_disk(plug: Any) -> None:
    listed = plug.check_output("lsblk --json --output NAME,SERIAL,TRAN,MOUNTPOINTS")
    drives = json.loads(listed)["blockdevices"]
    where = {
        drive["serial"]: (drive["tran"], drive["children"][0]["mountpoints"])
        for drive in drives
        if "children" in drive
    }
    assert where == {"VIRTUALSTICK01": ("usb", ["/"]), "VIRTUALDISK01": ("usb", ["/srv/backup"])}


def test_the_backup_disk_is_labelled_and_nothing_on_it_can_be_run(plug: Any) -> None:
    mount = plug.mount_point("/srv/backup")
    assert mount.filesystem == "btrfs"
    assert {"nodev", "nosuid", "noexec", "noatime"} <= set(mount.options)
    assert plug.check_output(f"lsblk --noheadings --output LABEL {mount.device}") == "backup"


@pytest.mark.parametrize("name", ["flashback", "flashback-led", "ssh", "srv-backup.mount"])
def test_its_services_run_now_and_after_every_boot(plug: Any, name: str) -> None:
    service = plug.service(name)
    assert service.is_running, plug.run(f"journalctl --no-pager --lines 30 --unit {name}").stdout
    assert service.is_enabled


def test_nothing_has_failed(plug: Any) -> None:
    assert plug.check_output("systemctl --failed --plain --no-legend") == ""


def test_the_engine_is_not_root_and_systemd_watches_it(plug: Any) -> None:
    shown = plug.check_output("systemctl show flashback --property User,WatchdogUSec,Type,MainPID")
    facts = dict(line.split("=") for line in shown.splitlines())
    assert (facts["User"], facts["Type"], facts["WatchdogUSec"]) == ("flashback", "notify", "5min")
    assert plug.check_output(f"stat --format %U /proc/{facts['MainPID']}") == "flashback"


def test_the_engine_can_write_to_the_backup_disk_and_nowhere_else(plug: Any) -> None:
    folders = "/srv/backup /etc /usr /opt/flashback /root /var/lib"
    script = f"for f in {folders}; do touch $f/probe 2>/dev/null && echo $f; done"
    pid = plug.check_output("systemctl show flashback --property MainPID --value")
    written = plug.run(
        f"nsenter --target {pid} --mount sh -c '{script}'; rm -f /srv/backup/probe"
    ).stdout.split()
    assert written == ["/srv/backup"]


def test_the_engine_is_a_release_that_can_be_switched(plug: Any) -> None:
    current = plug.file("/opt/flashback/current")
    assert current.is_symlink
    release = plug.check_output("cat /opt/flashback/current/RELEASE")
    assert current.linked_to == f"/opt/flashback/releases/{release}"
    assert plug.check_output("flashback --version").split()[1] == release.split("-")[1]


def test_nobody_gets_in_by_password(plug: Any) -> None:
    settings = plug.check_output("sshd -T")
    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings
    assert "permitrootlogin without-password" in settings


def test_only_ssh_is_reachable_from_outside(plug: Any) -> None:
    listening = plug.check_output("ss --listening --tcp --udp --numeric --no-header")
    open_ports = {
        line.split()[4].rpartition(":")[2]
        for line in listening.splitlines()
        if not line.split()[4].startswith(("127.", "[::1]"))
    }
    # 68 is the DHCP client, 5355 the resolver's link-local names.
    assert open_ports - {"68", "5355"} == {"22"}


def test_the_light_is_on_where_the_keyboard_has_it(plug: Any) -> None:
    assert plug.run("cat /sys/class/leds/input*::numlock/trigger").stdout.count("[none]") == 1
    assert "green" in plug.check_output("flashback led --show")


def test_the_status_is_well(plug: Any) -> None:
    told = plug.run("flashback status")
    assert told.rc == 0, told.stdout
    document = json.loads(plug.check_output("flashback status --json"))
    assert [job["last_snapshot"] is not None for job in document["jobs"]] == [True]


def test_what_is_restored_is_what_the_client_has(bench: Bench, first_run: Run, tmp_path: Path) -> None:
    bench.on_plug("rm -rf /root/restored && flashback restore laptop/home --to /root/restored")
    bench.fetch("/root/restored", tmp_path / "restored")
    original, restored = trees.describe(bench.home), trees.describe(tmp_path / "restored")
    assert len(original) > 3000
    assert restored == original


def test_the_snapshot_is_a_plain_tree_that_needs_no_program(
    bench: Bench, first_run: Run, tmp_path: Path
) -> None:
    path = json.loads(bench.on_plug("flashback snapshots --json"))[-1]["path"]
    bench.fetch(path, tmp_path / "copied")
    assert trees.describe(tmp_path / "copied") == trees.describe(bench.home)


def test_the_plugs_key_can_not_write_to_the_client(bench: Bench, first_run: Run) -> None:
    shell = (
        "ssh -F none -i /var/lib/flashback/.ssh/id_ed25519 -o BatchMode=yes -o HostKeyAlias=laptop"
        " -o UserKnownHostsFile=/var/lib/flashback/.ssh/known_hosts"
        f" -p {bench.environment['PLUG_CLIENT_PORT']}"
    )
    bench.on_plug(f"! rsync -e '{shell}' /etc/hostname 10.0.2.2:/evil")
    bench.on_plug(f"! {shell} 10.0.2.2 id")
    assert not (bench.home / "evil").exists()


def test_the_plug_answers_on_the_loopback_address_only(bench: Bench, first_run: Run) -> None:
    port = int(bench.environment["PLUG_SSH_PORT"])
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    addresses = {line.split()[1].split(":")[0] for line in listening.splitlines() if f":{port:04X} 0" in line}
    assert addresses == {socket.inet_aton("127.0.0.1")[::-1].hex().upper()}
