"""The plug's container, after the playbooks."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["podman://backup-plug-test-plug"]

PROJECT = Path(__file__).resolve().parents[3]


def test_the_backup_disk_was_formatted_labelled_and_mounted(host: Any) -> None:
    mount = host.mount_point("/srv/backup")
    assert mount.exists
    assert mount.filesystem == "btrfs"
    assert host.check_output(f"blkid -p -s LABEL -o value {mount.device}") == "backup"


def is_arch(host: Any) -> bool:
    return bool(host.file("/etc/arch-release").exists)


@pytest.mark.parametrize("name", ["flashback", "flashback-led", "ssh", "nftables"])
def test_its_services_run(host: Any, name: str) -> None:
    service = host.service("sshd" if name == "ssh" and is_arch(host) else name)
    assert service.is_running, host.run(f"journalctl --no-pager --lines 30 --unit {name}").stdout
    assert service.is_enabled


def test_the_engine_runs_unprivileged_with_six_of_roots_powers(host: Any) -> None:
    pid = host.check_output("systemctl show flashback --property MainPID --value")
    status = dict(
        line.split(":", 1)
        for line in host.check_output(f"cat /proc/{pid}/status").splitlines()
        if ":" in line
    )
    assert status["Uid"].split()[0] != "0"
    assert status["NoNewPrivs"].strip() == "1"
    assert bin(int(status["CapBnd"], 16)).count("1") == 6


def test_both_volumes_of_the_client_have_a_snapshot(host: Any) -> None:
    document = json.loads(host.check_output("flashback status --json"))
    assert {job["name"]: job["snapshots"] for job in document["jobs"]} == {
        "client/home/daily": 1,
        "client/etc/daily": 1,
    }


def test_a_private_file_arrived_with_its_owner_and_its_mode(host: Any) -> None:
    (snapshot,) = json.loads(host.check_output("flashback snapshots client/home --json"))
    diary = host.file(f"{snapshot['path']}/anna/diary")
    assert diary.content == b"secret\n"
    assert (diary.uid, diary.gid, diary.mode) == (4711, 4712, 0o600)


def test_hard_links_arrived_as_hard_links(host: Any) -> None:
    (snapshot,) = json.loads(host.check_output("flashback snapshots client/home --json"))
    folder = f"{snapshot['path']}/anna"
    inodes = host.check_output(f"stat --format %i {folder}/hardlink {folder}/project/tool.py").split()
    assert len(set(inodes)) == 1


def test_the_clients_host_key_is_pinned_under_its_name(host: Any) -> None:
    pinned = host.check_output("cat /var/lib/flashback/.ssh/known_hosts").split()
    assert pinned[:2] == ["client", "ssh-ed25519"]


def test_the_engines_files_belong_to_nobody_else(host: Any) -> None:
    assert host.file("/var/lib/flashback/.ssh").mode == 0o700
    assert host.file("/var/lib/flashback/.ssh/id_ed25519").mode == 0o600


def test_its_key_can_not_write_to_the_client(host: Any) -> None:
    shell = (
        "ssh -F none -i /var/lib/flashback/.ssh/id_ed25519 -o BatchMode=yes -o HostKeyAlias=client"
        " -o UserKnownHostsFile=/var/lib/flashback/.ssh/known_hosts"
    )
    target = "flashback-reader@backup-plug-test-client"
    assert host.run(f"rsync -e '{shell}' /etc/hostname {target}:/evil").rc != 0
    assert host.run(f"{shell} {target} touch /evil").rc != 0
    assert host.run(f"rsync -e '{shell}' {target}:/home/anna/diary /tmp/diary").rc == 0


def test_the_configuration_says_who_wrote_it(host: Any) -> None:
    assert host.file("/etc/flashback/flashback.yml").content_string.startswith(
        "# Managed by Ansible: role flashback"
    )


def test_the_language_is_set(host: Any) -> None:
    place = "/etc/locale.conf" if is_arch(host) else "/etc/default/locale"
    assert host.file(place).content_string == "LANG=C.UTF-8\n"


def test_whoever_logs_in_reads_how_the_backups_are(host: Any) -> None:
    greeting = host.check_output("script --quiet --command 'sh -lc true' /dev/null")
    assert "client-home-daily" in greeting
    assert host.check_output("sh -lc true") == ""


def test_the_packages_were_installed_by_the_systems_own_manager(host: Any) -> None:
    ask = "pacman -Q" if is_arch(host) else "dpkg-query --show"
    for name in ("rsync", "smartmontools", "xfsprogs"):
        assert host.run(f"{ask} {name}").rc == 0


def test_security_updates_are_installed_by_themselves_where_the_system_can_do_so(host: Any) -> None:
    if is_arch(host):
        assert not host.file("/etc/apt/apt.conf.d/52-plug").exists
        return
    settings = host.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert settings.count("Unattended-Upgrade::Origins-Pattern:: ") == 1
    assert 'label=Debian-Security";' in settings


def test_the_end_of_the_journal_is_kept(host: Any) -> None:
    host.check_output("systemctl start journal-tail.service")
    (name,) = host.file("/var/log/journal-tail").listdir()
    assert "flashback" in host.check_output(f"zcat /var/log/journal-tail/{name}")
    assert host.service("journal-tail.timer").is_running
    assert host.service("journal-tail-at-end.service").is_enabled


def test_a_disk_with_btrfs_is_scrubbed(host: Any) -> None:
    assert host.service("backup-disk-scrub.timer").is_running
    host.check_output("systemctl start backup-disk-scrub.service")


def test_the_disk_is_asked_for_its_health_and_one_that_says_nothing_is_no_alarm(host: Any) -> None:
    assert host.service("backup-disk-health.timer").is_running
    assert host.service("backup-disk-selftest.timer").is_running
    host.check_output("systemctl start backup-disk-health.service")
    assert "says nothing of its health" in host.check_output("journalctl -u backup-disk-health.service")
    assert not json.loads(host.check_output("cat /run/flashback/status.json"))["disk"]["smart"]["known"]
    assert not host.service("backup-disk-sleep.service").is_enabled
    assert not host.service("smartd.service" if is_arch(host) else "smartmontools.service").is_enabled


def test_a_folder_that_holds_files_is_no_place_for_the_disk(host: Any) -> None:
    argv = [
        "ansible",
        "-i",
        str(PROJECT / "inventories/molecule"),
        "plug",
        "-m",
        "mount_point",
        "-a",
        "path=/etc/ssh",
    ]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert "The folder /etc/ssh below the backup disk holds files of the system's own disk" in done.stdout
    assert done.returncode == 2
    assert "i" not in host.check_output("lsattr -d /etc/ssh").split()[0]


FAILING = """\
#!/bin/sh
echo '{"local_time": {"time_t": '$(date +%s)'}, "smart_status": {"passed": false}}'
exit 8
"""


def test_what_the_disk_has_said_reaches_the_engine(host: Any) -> None:
    """A program in the place of smartctl stands in for a disk that fails."""
    text = base64.b64encode(FAILING.encode()).decode()
    host.check_output("mv /usr/sbin/smartctl /usr/sbin/smartctl.true")
    try:
        host.check_output(f"echo {text} | base64 -d > /usr/sbin/smartctl; chmod 755 /usr/sbin/smartctl")
        host.check_output("systemctl start backup-disk-health.service")
        ill = "the backup disk is ill: it expects to fail soon; replace it soon"
        host.check_output(f"timeout 90 sh -c 'until flashback status | grep \"{ill}\"; do sleep 1; done'")
    finally:
        host.check_output("mv /usr/sbin/smartctl.true /usr/sbin/smartctl; rm -f /run/backup-disk/smart.json")


def test_passwords_are_refused(host: Any) -> None:
    assert "passwordauthentication no" in host.check_output("sshd -T")


@pytest.mark.parametrize(
    ("unit", "tenths"),
    [
        ("journal-tail", 20),
        ("backup-disk-scrub", 20),
        ("backup-disk-health", 20),
        ("backup-disk-sleep", 20),
        ("backup-disk-selftest", 20),
        ("flashback-led", 20),
        # The reason stands in the unit.
        ("flashback", 24),
    ],
)
def test_each_unit_is_locked_up(host: Any, unit: str, tenths: int) -> None:
    host.check_output(f"systemd-analyze security --no-pager --threshold={tenths} {unit}.service")


def test_each_unit_is_sound(host: Any) -> None:
    for unit in ("flashback.service", "flashback-led.service", "srv-backup.mount", "journal-tail.service"):
        assert host.check_output(f"systemd-analyze verify /etc/systemd/system/{unit} 2>&1") == ""
