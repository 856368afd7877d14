"""One ssh connection for all that a backup asks of a client: on a plug each key exchange costs a second.

An ssh of the engine's own keeps it, and ends with the backup.  Without it, or when it breaks, each rsync
connects by itself.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from flashback import process, transfer
from flashback.model import Config, Job, Pulse

# Longest path of a socket that ssh can bind, less the ending under which it makes it.
LONGEST = 108 - 1 - 17
# Seconds until rsync is started without it.
PATIENCE = 30.0
LOOK = 0.01


@contextlib.contextmanager
def kept(config: Config, job: Job, address: str, pulse: Pulse) -> Iterator[Path | None]:
    """Keep a connection to a job's client; yields its socket, or nothing where there is none."""
    socket = config.run_dir.absolute() / f"ssh-{zlib.crc32(job.name.encode()):08x}"
    if job.local or job.source.startswith("rsync://") or len(bytes(socket)) > LONGEST:
        yield None
        return
    socket.unlink(missing_ok=True)
    argv = [*transfer.ssh(config, job, shared=socket), "-N", "-M", "-l", job.user, "--", address]
    try:
        with process.kept(process.tied(argv), cwd="/") as running:
            until = time.monotonic() + PATIENCE
            while running() and not socket.exists() and time.monotonic() < until:
                pulse()
                time.sleep(LOOK)
            yield socket if socket.exists() else None
    finally:
        socket.unlink(missing_ok=True)
