"""Is the client there, and is it really that client?

A TCP connection to its ssh port over each address in turn, then the host key it shows
against the one pinned for its name in known_hosts.  Never a ping: it says nothing about
ssh, and many machines do not answer it.

Nothing is sent to a client but a key exchange.  The sacred rule: no address counts as
reachable whose key is not the pinned one, for a laptop's address may belong to anybody today.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from flashback import process
from flashback.model import Job, Pulse

# Seconds for one address to accept a connection: a sleeping laptop's address never answers.
CONNECT = 5.0
# Seconds for one key exchange; an ARMv5 plug or a busy client needs several.
KEYSCAN = 15
_SCAN_NAMES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}


class Kind(str, Enum):
    """What a look at the client found."""

    REACHABLE = "reachable"
    AWAY = "away"
    WRONG_MACHINE = "wrong machine"
    NO_PINNED_KEY = "no pinned key"
    SLOW_PATH = "slow path"


@dataclass(frozen=True)
class Reach:
    """The outcome; `address` is set when reachable, `reason` otherwise."""

    kind: Kind
    address: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()
    """What is wrong although the client was reached, such as a stranger at one of its addresses."""
    rtt_ms: float = 0.0
    """Round trip of a connection."""


def look(job: Job, known_hosts: Path, pulse: Pulse = process.no_pulse) -> Reach:
    """Return over which address the client of a job can be trusted to answer, or why over none."""
    if job.local:
        return Reach(Kind.REACHABLE)
    pinned = pinned_keys(job.host, known_hosts, pulse)
    if not pinned:
        return Reach(
            Kind.NO_PINNED_KEY,
            reason=f"no host key of {job.host} is pinned in {known_hosts}; enrol the client, "
            f"or compare the key with the one on its screen and add the line `{job.host} TYPE KEY`",
        )
    reasons: list[str] = []
    wrong = ""
    for address in job.addresses:
        pulse()
        problem = _connect(address, job.port)
        if problem:
            reasons.append(problem)
            continue
        shown = _shown_keys(address, job.port, {kind for kind, _ in pinned}, pulse)
        if shown & pinned:
            return Reach(Kind.REACHABLE, address=address)
        if shown:
            wrong = f"{address} port {job.port} shows another host key than the one pinned for {job.host}"
        else:
            reasons.append(f"{address} port {job.port} answers but shows no host key of the pinned kind")
    if wrong:
        return Reach(Kind.WRONG_MACHINE, reason=wrong)
    return Reach(Kind.AWAY, reason="; ".join(reasons))


def pinned_keys(host: str, known_hosts: Path, pulse: Pulse = process.no_pulse) -> set[tuple[str, str]]:
    """Return the (type, key) pairs pinned for a host. ssh-keygen reads the file, so hashed names work."""
    if not known_hosts.is_file():
        return set()
    found = process.run(["ssh-keygen", "-F", host, "-f", str(known_hosts)], pulse=pulse)
    return _keys(found.stdout)


def _connect(address: str, port: int) -> str:
    """Return why a connection failed, or nothing."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT):
            return ""
    except TimeoutError:
        return f"{address} port {port} does not answer"
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        return f"{address} port {port}: {text}"


def _shown_keys(address: str, port: int, kinds: set[str], pulse: Pulse) -> set[tuple[str, str]]:
    names = sorted({_SCAN_NAMES.get(kind, kind.split("-")[0]) for kind in kinds})
    done = process.run(
        ["ssh-keyscan", "-T", str(KEYSCAN), "-p", str(port), "-t", ",".join(names), "--", address],
        pulse=pulse,
        timeout=2 * KEYSCAN * len(names),
    )
    return _keys(done.stdout)


def _keys(text: str) -> set[tuple[str, str]]:
    """Return the (type, key) pairs of known_hosts lines, without the marked ones (@revoked)."""
    keys = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and not line.startswith(("#", "@")):
            keys.add((words[1], words[2]))
    return keys
