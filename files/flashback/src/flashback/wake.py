"""Wake a sleeping client: the magic packet of Wake-on-LAN.

Sent as a broadcast over IPv4 and to all nodes of every interface over IPv6.  Whether the
client wakes is for others to see; nothing answers this packet.
"""

from __future__ import annotations

import contextlib
import socket

from flashback.model import Pulse

# The discard port: nothing listens there, the network card reads the packet itself.
PORT = 9


def packet(mac: str) -> bytes:
    """Return six bytes of ones and sixteen times the hardware address."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16


def wake(mac: str, pulse: Pulse, port: int = PORT) -> None:
    """Send the packet everywhere it may reach the client; an interface that refuses is passed over."""
    pulse()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as broadcast:
        broadcast.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        with contextlib.suppress(OSError):
            broadcast.sendto(packet(mac), ("255.255.255.255", port))
    for number, name in socket.if_nameindex():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as everyone:
            everyone.sendto(packet(mac), ("ff02::1", port, 0, number))
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as broadcast:
            broadcast.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            broadcast.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            broadcast.sendto(packet(mac), ("255.255.255.255", port))
