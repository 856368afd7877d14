"""Ask whether the system's clock has been set; nothing is decided here.

A board without a battery starts in the past.  systemd reads the kernel's own flag
(adjtimex), which timesyncd, chrony and ntpd all set.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone, tzinfo

from flashback import process
from flashback.errors import FlashbackError
from flashback.model import Pulse

_seen_synchronised = False


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.fromtimestamp(time.time(), timezone.utc)


def zone() -> tzinfo:
    """Return the time zone of the wall clock: days and weeks begin there."""
    return now().astimezone().tzinfo or timezone.utc


def unsynchronised(pulse: Pulse = process.no_pulse) -> str | None:
    """Return why the clock cannot be trusted yet, or None. Once synchronised it counts as such for good."""
    global _seen_synchronised  # noqa: PLW0603 - one clock per process
    if _seen_synchronised:
        return None
    try:
        done = process.run(
            ["timedatectl", "show", "-p", "NTPSynchronized", "--value"], pulse=pulse, timeout=20
        )
    except FlashbackError as error:
        return f"whether the clock is set cannot be asked: {error.what}"
    if done.code != 0:
        return f"whether the clock is set cannot be asked: {' '.join(done.stderr.split())}"
    _seen_synchronised = done.stdout.strip() == "yes"
    return None if _seen_synchronised else "the clock is not synchronised yet"
