"""Is the client there, and is it really that client?

A TCP connection to its ssh port over all its addresses, the first answer first, then the
host key it shows against the one pinned for its name in known_hosts.  Never a ping: it says nothing about
ssh, and many machines do not answer it.

Nothing is sent to a client but a key exchange.  The sacred rule: no address counts as
reachable whose key is not the pinned one, for a laptop's address may belong to anybody today.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from flashback import process
from flashback.model import Job, Pulse

# Seconds for one address to accept a connection: a sleeping laptop's address never answers.
CONNECT = 5.0
# Seconds between the beginnings of two attempts (RFC 8305 recommends a quarter).
STAGGER = 0.25
# Seconds for a name to be resolved; .local names are asked for on the network.
RESOLVE = 5.0
RSYNC_PORT = 873
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
    url = transfer_url(job.source)
    if url is not None:
        return _look_at_daemon(job, *url, pulse)
    pinned = pinned_keys(job.host, known_hosts, pulse)
    if not pinned:
        return Reach(
            Kind.NO_PINNED_KEY,
            reason=f"no host key of {job.host} is pinned in {known_hosts}; enrol the client, "
            f"or compare the key with the one on its screen and add the line `{job.host} TYPE KEY`",
        )
    search = _Search(job, pinned, pulse)
    for place, rtt in race(places_of(job.addresses, job.port, search.reasons, pulse), search.reasons, pulse):
        found = search.judge(place, rtt)
        if found is not None:
            return found
    return search.failure()


class _Search:
    """What was found at the addresses of one client so far."""

    def __init__(self, job: Job, pinned: set[tuple[str, str]], pulse: Pulse) -> None:
        self._job = job
        self._pinned = pinned
        self._pulse = pulse
        self.reasons: list[str] = []
        self._wrong: list[str] = []
        self._slow: list[str] = []

    def judge(self, place: Place, rtt: float) -> Reach | None:
        """Return the client when it is the one, and on a way that the job may take."""
        job = self._job
        shown = shown_keys(place, {kind for kind, _ in self._pinned}, self._pulse)
        if not shown & self._pinned:
            if shown:
                self._wrong.append(f"{place} shows another host key than the one pinned for {job.host}")
            else:
                self.reasons.append(f"{place} answers but shows no host key of the pinned kind")
            return None
        obstacle = _obstacle(job, place, rtt, self._pulse)
        if obstacle:
            self._slow.append(obstacle)
            return None
        return Reach(Kind.REACHABLE, place.address, warnings=tuple(self._wrong), rtt_ms=rtt)

    def failure(self) -> Reach:
        """Return why the client was not reached, the worst reason first."""
        if self._slow:
            return Reach(Kind.SLOW_PATH, reason="; ".join(self._slow), warnings=tuple(self._wrong))
        if self._wrong:
            return Reach(Kind.WRONG_MACHINE, reason="; ".join(self._wrong))
        return Reach(Kind.AWAY, reason="; ".join(self.reasons))


def transfer_url(source: str) -> tuple[str, int] | None:
    """Return host and port of an rsync:// source, None for all others."""
    if not source.startswith("rsync://"):
        return None
    parts = urlsplit(source)
    return parts.hostname or "", parts.port or RSYNC_PORT


def _look_at_daemon(job: Job, host: str, port: int, pulse: Pulse) -> Reach:
    """Return whether an rsync daemon answers. It has no host key: who it is cannot be known."""
    reasons: list[str] = []
    slow: list[str] = []
    for place, rtt in race(places_of((host,), port, reasons, pulse), reasons, pulse):
        obstacle = _obstacle(job, place, rtt, pulse)
        if not obstacle:
            return Reach(Kind.REACHABLE, place.address, rtt_ms=rtt)
        slow.append(obstacle)
    return Reach(Kind.SLOW_PATH if slow else Kind.AWAY, reason="; ".join(slow or reasons))


def _obstacle(job: Job, place: Place, rtt: float, pulse: Pulse) -> str:
    """Return why the job has to wait for a better way to the client, or nothing."""
    if job.only_networks:
        import ipaddress  # noqa: PLC0415 - only where a job asks for it

        address = ipaddress.ip_address(place.address.partition("%")[0])
        if not any(address in ipaddress.ip_network(network) for network in job.only_networks):
            return f"{place} is outside of {', '.join(job.only_networks)} (only_networks)"
    if job.max_rtt_ms is not None:
        again = [found for _ in range(2) for _, found in race([place], [], pulse)]
        rtt = sorted([rtt, *again])[len(again) // 2]
        if rtt > job.max_rtt_ms:
            return f"{place} answers in {rtt:.0f} ms, allowed are {job.max_rtt_ms} ms (max_rtt_ms)"
    return ""


# --- connecting --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One numeric address with its port."""

    family: int
    address: str
    port: int
    target: tuple[object, ...]

    def __str__(self) -> str:
        """Return it as the messages have it."""
        return f"{self.address} port {self.port}"


def places_of(addresses: Sequence[str], port: int, reasons: list[str], pulse: Pulse) -> list[Place]:
    """Return all numeric addresses of a client in the order of the configuration, without doubles."""
    found: dict[str, Place] = {}
    for address in addresses:
        numbers = [address] if _numeric(address) else _resolved(address, pulse)
        if not numbers:
            reasons.append(f"{address} has no address")
        for number in numbers:
            for family, _, _, _, target in socket.getaddrinfo(
                number, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            ):
                found.setdefault(number, Place(family, number, port, target))
    return list(found.values())


def _numeric(address: str) -> bool:
    try:
        socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def _resolved(name: str, pulse: Pulse) -> list[str]:
    """Return the addresses of a name. Asked of a program, for only that can be given up after a while."""
    done = process.run(["getent", "ahosts", name], pulse=pulse, timeout=RESOLVE)
    return list(dict.fromkeys(line.split()[0] for line in done.stdout.splitlines() if line.split()))


def race(places: Sequence[Place], reasons: list[str], pulse: Pulse) -> Iterator[tuple[Place, float]]:
    """Yield the places that accept a connection, the first to do so first, with the round trip in ms.

    One attempt begins every STAGGER seconds while those before it still wait, so that a dead address
    costs little.  Why a place did not answer is added to `reasons`.
    """
    waiting = list(places)
    begun: dict[socket.socket, tuple[Place, float]] = {}
    following = 0.0
    try:
        while waiting or begun:
            pulse()
            now = time.monotonic()
            if waiting and (now >= following or not begun):
                place, following = waiting.pop(0), now + STAGGER
                attempt = _begin(place, reasons)
                if attempt is not None:
                    begun[attempt] = (place, now)
            # A connection that is made, or refused, can be written to.
            _, ready, _ = select.select([], begun, [], STAGGER / 5)
            for attempt in ready:
                place, since = begun.pop(attempt)
                error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                attempt.close()
                if error:
                    reasons.append(f"{place}: {os.strerror(error)}")
                else:
                    yield place, (time.monotonic() - since) * 1000
            for attempt, (place, since) in list(begun.items()):
                if time.monotonic() - since > CONNECT:
                    reasons.append(f"{place} does not answer")
                    attempt.close()
                    del begun[attempt]
    finally:
        for attempt in begun:
            attempt.close()


def _begin(place: Place, reasons: list[str]) -> socket.socket | None:
    """Return a connection that is being made, or None when it cannot even begin."""
    try:
        attempt = socket.socket(place.family, socket.SOCK_STREAM)
    except OSError as error:
        reasons.append(f"{place}: {error.strerror}")
        return None
    attempt.setblocking(False)
    error_number = attempt.connect_ex(place.target)
    if error_number in (0, errno.EINPROGRESS):
        return attempt
    attempt.close()
    reasons.append(f"{place}: {os.strerror(error_number)}")
    return None


# --- host keys ---------------------------------------------------------------------------------------------


def pinned_keys(host: str, known_hosts: Path, pulse: Pulse = process.no_pulse) -> set[tuple[str, str]]:
    """Return the (type, key) pairs pinned for a host. ssh-keygen reads the file, so hashed names work."""
    if not known_hosts.is_file():
        return set()
    found = process.run(["ssh-keygen", "-F", host, "-f", str(known_hosts)], pulse=pulse)
    return _keys(found.stdout)


def shown_keys(place: Place, kinds: set[str], pulse: Pulse = process.no_pulse) -> set[tuple[str, str]]:
    """Return the (type, key) pairs that whatever answers there shows."""
    names = sorted({_SCAN_NAMES.get(kind, kind.split("-")[0]) for kind in kinds})
    done = process.run(
        [
            "ssh-keyscan",
            "-T",
            str(KEYSCAN),
            "-p",
            str(place.port),
            "-t",
            ",".join(names),
            "--",
            place.address,
        ],
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
