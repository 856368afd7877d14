"""Ask whether the system's clock has been set; nothing is decided here.

A board without a battery starts in the past.  systemd reads the kernel's own flag
(adjtimex), which timesyncd, chrony and ntpd all set.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone, tzinfo

from flashback import process
from flashback.errors import FlashbackError
from flashback.model import Pulse

_seen_synchronised = False


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.fromtimestamp(time.time(), timezone.utc)


class _WallClock(tzinfo):
    """The time zone of this machine, with the summer time that held at each moment."""

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, at: datetime | None) -> timedelta | None:  # noqa: ARG002 - the system tells offsets alone
        return None

    def tzname(self, at: datetime | None) -> str | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, at: datetime) -> datetime:
        # Not `astimezone`: it leaves out which of the two hours it is that autumn has twice.
        return datetime.fromtimestamp(at.replace(tzinfo=timezone.utc).timestamp()).replace(tzinfo=self)


def zone() -> tzinfo:
    """Return the time zone of the wall clock: days and weeks begin there."""
    return _WallClock()


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
