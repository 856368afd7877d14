"""Find out what a client's rsync can do, through the same narrow door as the backup.

Old rsyncs (macOS has version 2.6.9 or openrsync) lack access control lists, attributes or
more.  What they lack is said before a backup is made, with the settings that go without.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass

from flashback import process, transfer
from flashback.errors import FlashbackError
from flashback.model import Config, Job, Pulse

# rsync(1) and its NEWS: what the number of the protocol says about the age of the other side.
AGES = (
    (31, "rsync 3.1 or later"),
    (30, "rsync 3.0"),
    (29, "rsync 2.6.4 to 2.6.9"),
    (0, "openrsync or very old"),
)
FEATURES = (
    ("-A", "access control lists", "--no-acls"),
    ("-X", "extended attributes", "--no-xattrs"),
    ("-H", "hard links", "--no-hard-links"),
    ("-S", "holes in sparse files", "--no-sparse"),
)


@dataclass(frozen=True)
class Capability:
    """What the other side is, and what a backup of it loses."""

    protocol: int
    age: str
    lost: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """What `rsync_options` needs so that backups work all the same."""


def look(config: Config, job: Job, address: str, pulse: Pulse) -> Capability:
    """Return what the rsync on the other side can do; raise FlashbackError when it cannot be asked."""
    plain = _try(config, job, address, [], pulse)
    found = re.search(r"remote=(\d+)", plain.stdout + plain.stderr)
    if plain.code not in (0, 23) or (found is None and not job.local):
        said = transfer.judge(plain.code, plain.stderr).note
        raise FlashbackError(
            f"The rsync of {job.host} cannot be asked: {said or 'it does not say its protocol'}"
        )
    protocol = int(found[1]) if found else 31
    age = next(words for least, words in AGES if protocol >= least)
    missing = [
        (words, option)
        for flag, words, option in FEATURES
        if _try(config, job, address, [flag], pulse).code not in (0, 23)
    ]
    lost = [words for words, _ in missing]
    if protocol < 31:
        lost.append("fractions of seconds in times")
    return Capability(protocol, age, tuple(lost), tuple(option for _, option in missing))


def _try(config: Config, job: Job, address: str, flags: list[str], pulse: Pulse) -> process.Finished:
    env = {} if job.local else {"RSYNC_RSH": transfer.shell(config, job)}
    with tempfile.TemporaryDirectory(prefix="flashback-probe-") as scratch:
        argv = ["rsync", "--dry-run", "--dirs", "--links", "--debug=PROTO", "--timeout=60", *flags, "--"]
        argv += [*transfer.sources(job, address), f"{scratch}/"]
        return process.run(argv, pulse=pulse, timeout=120, env=env)
