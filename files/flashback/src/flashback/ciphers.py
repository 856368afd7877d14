"""Measure how fast each cipher of ssh is between here and a client, by really moving a file.

On a CPU without instructions for AES, as on a plug, chacha20 costs a third of the others.
"""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flashback import process, transfer
from flashback.errors import FlashbackError
from flashback.model import Config, Job

# Modern ones; everything else that ssh still knows is weaker or slower.
CANDIDATES = (
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
)


@dataclass(frozen=True)
class Measured:
    """How one cipher did: megabytes moved, wall seconds, CPU seconds on this side; or why it did not work."""

    cipher: str
    megabytes: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    problem: str = ""


def measure(config: Config, job: Job, address: str, path: str) -> Iterator[Measured]:
    """Yield a result for each cipher; `path` is a large file below the job's source."""
    file = f"{job.source.rstrip('/')}/{path.strip('/')}"
    for cipher in CANDIDATES:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=config.data_dir / ".flashback") as scratch:
            yield _one(dataclasses.replace(config, ciphers=(cipher,)), job, address, (file, Path(scratch)))


def _one(config: Config, job: Job, address: str, way: tuple[str, Path]) -> Measured:
    file, scratch = way
    source = transfer.sources(dataclasses.replace(job, source=file), address)[0].rstrip("/")
    before, begun = _cpu(), time.monotonic()
    argv = ["rsync", "--whole-file", "--", source, f"{scratch}/"]
    done = process.run(argv, timeout=3600, env={"RSYNC_RSH": transfer.shell(config, job)})
    seconds, cpu = time.monotonic() - begun, _cpu() - before
    if done.code != 0:
        if done.code != 255:
            raise FlashbackError(f"{file} cannot be fetched: {transfer.judge(done.code, done.stderr).note}")
        return Measured(config.ciphers[0], problem=" ".join(done.stderr.split())[-100:])
    size = sum(each.stat().st_size for each in scratch.iterdir())
    return Measured(config.ciphers[0], size / 1e6, seconds, cpu)


def _cpu() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
