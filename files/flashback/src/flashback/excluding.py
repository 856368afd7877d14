"""Say whether a path would be backed up and which pattern decides, by asking the real rsync.

The path is made in an empty scratch folder and rsync is told to copy that, without doing it:
so what is shown is what rsync decides, not what we believe that it does.  The client is not
asked; what a file of patterns in its folders says is not known here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashback import process, transfer
from flashback.errors import FlashbackError, UsageError
from flashback.model import Job

_HIDING = re.compile(r"hiding (?:file|directory) (?P<path>.+) because of pattern (?P<pattern>.+)")


@dataclass(frozen=True)
class Decision:
    """What becomes of a path; without a pattern it is backed up."""

    path: str
    part: str = ""
    """The folder above it, or the path itself, that the pattern meets."""
    pattern: str = ""

    def __str__(self) -> str:
        """Return it as a sentence."""
        if not self.pattern:
            return f"{self.path}: is backed up"
        met = "" if self.part.rstrip("/") == self.path.strip("/") else f", which meets {self.part}"
        return f"{self.path}: is left out by the pattern {self.pattern}{met}"


def decide(job: Job, path: str) -> Decision:
    """Return what becomes of a path below the source; a slash at its end makes it a folder."""
    relative = path.strip("/")
    if not relative or ".." in relative.split("/"):
        raise UsageError(f"`{path}` is no path below {job.source}", "Name it as it is below the source")
    with tempfile.TemporaryDirectory(prefix="flashback-excludes-") as scratch:
        target = Path(scratch) / "source" / relative
        if path.endswith("/"):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        argv = ["rsync", "--dry-run", "--recursive", "--debug=FILTER1", *transfer.excluding(job)]
        done = process.run([*argv, "--", f"{scratch}/source/", f"{scratch}/target/"])
    if done.code != 0:
        raise FlashbackError(
            f"rsync does not understand the patterns: {' '.join(done.stderr.split())[-300:]}"
        )
    found = _HIDING.search(done.stdout + done.stderr)
    return Decision(path, found["path"], found["pattern"].strip()) if found else Decision(path)


def merged(job: Job) -> Sequence[str]:
    """Return everything that leaves something out of a job, in the order in which it is looked at."""
    lines = list(job.excludes)
    lines += [
        option for option in job.rsync_options if option.startswith(("--exclude", "--include", "--filter"))
    ]
    if job.exclude_file:
        lines.append(f"(patterns in files called {job.exclude_file})")
    if job.exclude_larger_than:
        lines.append(f"(files larger than {job.exclude_larger_than})")
    if job.one_file_system:
        lines.append("(other file systems mounted below)")
    return lines
