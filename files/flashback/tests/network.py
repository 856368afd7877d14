"""A real network of two machines for the tests: namespaces of their own, joined by cables with a real delay.

Each cable is a pair of TAP devices and this program, which carries every frame to the other side after
the delay; a kernel's own netem is not everywhere.  Nothing outside the two namespaces is touched.

    plug 10.77.N.1  <== cable N ==>  10.77.N.2 client
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Network:
    """The names of the two namespaces, for `ip netns exec`."""

    plug: str
    client: str

    @staticmethod
    def inside(namespace: str) -> list[str]:
        """Return the words that run a command in there."""
        return ["ip", "netns", "exec", namespace]


@contextmanager
def network(delays: Sequence[float]) -> Iterator[Network]:
    """Join a plug and a client by one cable for each delay, in seconds one way."""
    made = Network(f"plug{os.getpid()}", f"client{os.getpid()}")
    relay: subprocess.Popen[str] | None = None
    try:
        for name in (made.plug, made.client):
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        words = [sys.executable, __file__, made.plug, made.client, *map(str, delays)]
        relay = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert relay.stdout is not None
        assert relay.stdout.readline() == "ready\n"
        for number in range(len(delays)):
            for name, end in ((made.plug, 1), (made.client, 2)):
                ip = ["ip", "-n", name]
                address = f"10.77.{number}.{end}/24"
                subprocess.run(
                    [*ip, "address", "add", address, "broadcast", "+", "dev", f"tap{number}"], check=True
                )
                subprocess.run([*ip, "link", "set", f"tap{number}", "up"], check=True)
        yield made
    finally:
        if relay is not None:
            relay.terminate()
            relay.communicate()
        for name in (made.plug, made.client):
            subprocess.run(["ip", "netns", "delete", name], check=True)


def plugged(namespace: str, number: int) -> int:
    """Enter a namespace and return the descriptor of a new TAP device in it."""
    with open(f"/run/netns/{namespace}", "rb") as place:  # noqa: PTH123 - a descriptor is what is wanted
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", f"tap{number}".encode(), IFF_TAP | IFF_NO_PI))
    return device


def carry(plug: str, client: str, delays: Sequence[float]) -> None:
    """Carry frames until ended."""
    other: dict[int, tuple[int, float]] = {}
    for number, delay in enumerate(delays):
        one, two = plugged(plug, number), plugged(client, number)
        other |= {one: (two, delay), two: (one, delay)}
    print("ready", flush=True)
    under_way = {device: deque[tuple[float, bytes]]() for device in other}
    while True:
        first = min((frames[0][0] for frames in under_way.values() if frames), default=None)
        patience = None if first is None else max(0.0, first - time.monotonic())
        ready, _, _ = select.select(list(other), [], [], patience)
        for device in ready:
            target, delay = other[device]
            under_way[target].append((time.monotonic() + delay, os.read(device, 65536)))
        for device, frames in under_way.items():
            while frames and frames[0][0] <= time.monotonic():
                frame = frames.popleft()[1]
                # What arrives before the other end is up is lost, as with every cable.
                with suppress(OSError):
                    os.write(device, frame)


if __name__ == "__main__":
    carry(sys.argv[1], sys.argv[2], [float(word) for word in sys.argv[3:]])
