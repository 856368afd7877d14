"""What a client needs to be backed up, as one command to paste there, and the pinning of its host key here.

The command makes an account, lets the engine's key run one reading command as root, and shows the
fingerprint of the client's host key.  A person carries that fingerprint over; only a client that shows the
same one on the network is pinned.

The sacred rule: no host key is believed because the network said so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from flashback import process, reach, transfer
from flashback.errors import FlashbackError, NotNowError, UsageError
from flashback.model import Config, Job, Pulse
from flashback.store.trees import write_safely

KIND = "ssh-ed25519"
PREFIX = "SHA256:"

_SCRIPT = """\
set -eu
command -v rrsync >/dev/null && command -v sudo >/dev/null || apt-get install -y rsync sudo \\
    || pacman -S --needed --noconfirm rsync sudo || dnf install -y rsync rsync-rrsync sudo
reader=$(command -v rrsync)
id {account} >/dev/null 2>&1 || useradd --system --user-group --create-home --home-dir /var/lib/{account} \\
    --comment 'Reads files for the backups' --shell /bin/sh --password '*' {account}
home=$(getent passwd {account} | cut -d : -f 6)
group=$(id -gn {account})
install -d -m 0700 -o {account} -g "$group" "$home/.ssh"
keys=$home/.ssh/authorized_keys
line='restrict,from="{sources}",command="sudo -n '"$reader"' -ro /" {key}'
grep -qxF "$line" "$keys" 2>/dev/null || printf '%s\\n' "$line" >> "$keys"
chown {account}:"$group" "$keys"
chmod 0600 "$keys"
rule=$(mktemp)
echo 'Defaults:{account} env_keep += "SSH_ORIGINAL_COMMAND"' > "$rule"
echo "{account} ALL=(root) NOPASSWD: $reader -ro /" >> "$rule"
visudo -qcf "$rule"
install -m 0440 "$rule" /etc/sudoers.d/backup-client
rm "$rule"
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
"""


def command(account: str, key: str, sources: Sequence[str]) -> str:
    """Return what is to be pasted into a shell of a Linux client; `sources` are the engine's addresses."""
    script = _SCRIPT.format(account=account, sources=",".join(sources), key=key.strip())
    return f"sudo sh -c {shlex.quote(script)}"


def public_key(config: Config) -> str:
    """Return the engine's public key."""
    place = config.ssh_key.with_name(f"{config.ssh_key.name}.pub")
    try:
        return place.read_text(encoding="ascii")
    except OSError as error:
        raise FlashbackError(f"The engine's public key {place} cannot be read: {error.strerror}") from None


def own_addresses(pulse: Pulse = process.no_pulse) -> list[str]:
    """Return the addresses from which others see this machine, without those that change daily."""
    done = process.run(["ip", "-json", "address", "show", "scope", "global"], pulse=pulse)
    try:
        found = [each for link in json.loads(done.stdout) for each in link.get("addr_info", ())]
    except ValueError:
        return []
    return [str(each["local"]) for each in found if each.get("local") and not each.get("temporary")]


def checked(sources: Sequence[str]) -> list[str]:
    """Return addresses and networks as sshd reads them; raise UsageError for anything else."""
    for each in sources:
        try:
            ipaddress.ip_network(each, strict=False)
        except ValueError:  # noqa: PERF203 - there are two or three
            raise UsageError(f"{each!r} is no address or network", "sshd looks no names up") from None
    return list(sources)


def fingerprint(key: str) -> str:
    """Return the fingerprint of a host key (base64), as ssh-keygen shows it."""
    digest = hashlib.sha256(binascii.a2b_base64(key)).digest()
    return PREFIX + base64.b64encode(digest).decode().rstrip("=")


def pin(config: Config, job: Job, expected: str, pulse: Pulse = process.no_pulse) -> str:
    """Pin the host key that bears this fingerprint; return the address at which it was shown."""
    if not expected.startswith(PREFIX):
        raise UsageError(f"{expected!r} is no fingerprint", f"The client shows one that begins with {PREFIX}")
    reasons: list[str] = []
    strangers = []
    places = reach.places_of(job.addresses, job.port, reasons, pulse)
    for place, _ in reach.race(places, reasons, pulse):
        for kind, key in reach.shown_keys(place, {KIND}, pulse):
            if fingerprint(key) == expected:
                _write(config.known_hosts, job.host, kind, key, pulse)
                return place.address
            strangers.append(f"{place} shows {fingerprint(key)}")
    if strangers:
        raise FlashbackError(
            f"No address of {job.host} shows a host key with that fingerprint: {'; '.join(strangers)}",
            "Nothing was pinned. Is it another machine, or was the fingerprint cut off?",
        )
    raise NotNowError(f"{job.host} cannot be reached: {'; '.join(reasons) or 'it shows no host key'}")


def require_readable(config: Config, job: Job, address: str, pulse: Pulse = process.no_pulse) -> None:
    """Raise FlashbackError when the source of a job cannot be listed at its client."""
    argv = ["rsync", "--dirs", "--list-only", "--", *transfer.sources(job, address)]
    env = {"RSYNC_RSH": transfer.shell(config, job)}
    done = process.run(process.tied(argv), pulse=pulse, timeout=120, env=env)
    verdict = transfer.judge(done.code, done.stderr, done.timed_out)
    if not verdict.complete:
        raise FlashbackError(
            f"{job.host} is pinned, but {job.source} cannot be read there: {verdict.note}",
            "Did the command end well at the client?",
        )


def _write(known_hosts: Path, host: str, kind: str, key: str, pulse: Pulse) -> None:
    """Put a key in the place of those that were pinned for a host."""
    old = known_hosts.read_text(encoding="utf-8").splitlines() if known_hosts.is_file() else []
    there = process.run(["ssh-keygen", "-F", host, "-f", str(known_hosts)], pulse=pulse).stdout.splitlines()
    kept = [line for line in old if line not in there]
    write_safely(known_hosts, "\n".join([*kept, f"{host} {kind} {key}", ""]))
    # Root may enrol, but it is the engine that reads it.
    owner = known_hosts.parent.stat()
    os.chown(known_hosts, owner.st_uid, owner.st_gid)
