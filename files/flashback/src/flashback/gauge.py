"""Count what is packed, and tell it now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from flashback.model import Progress

# Seconds between two reports.
OFTEN = 0.5


class Gauge:
    """Counts files and bytes; with the `total` of bytes, if it is known, it tells percent and time left."""

    def __init__(
        self, on_progress: Callable[[Progress], None] | None = None, total: int | None = None
    ) -> None:
        self._on_progress = on_progress
        self._total = total
        self._began = self._said = time.monotonic()
        self.files = self.bytes = 0

    def more(self, *, files: int = 0, size: int = 0) -> None:
        """Take notice of more files and bytes."""
        self.files += files
        self.bytes += size
        now = time.monotonic()
        if self._on_progress and now - self._said > OFTEN:
            self._said = now
            self._on_progress(self._progress(now - self._began))

    def _progress(self, seconds: float) -> Progress:
        rate = int(self.bytes / seconds)
        if not self._total:
            return Progress(self.files, self.bytes, 0, rate)
        # Headers make it more than was counted, links and holes less.
        percent = min(99, self.bytes * 100 // self._total)
        left = max(0, self._total - self.bytes)
        return Progress(self.files, self.bytes, percent, rate, left // rate if rate else None)
