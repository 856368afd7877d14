"""Translate what people gave to rsync in the configurations of 2014 into settings of today.

Words in, settings out; nothing is read but the files that --exclude-from names.  The sacred
rule: an option that is not carried over is named with the reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashback.config import RSYNC_OPTIONS

# What the engine does anyway, or what only fills the log.
_NEEDLESS_LETTERS = frozenset("aAEgDhHilopPqrStvXx")
_NEEDLESS = frozenset((
    "--acls", "--archive", "--delete", "--delete-after", "--delete-before", "--delete-delay",
    "--delete-during", "--delete-excluded", "--devices", "--devices-specials", "--executability",
    "--group", "--hard-links", "--human-readable", "--itemize-changes", "--links", "--numeric-ids",
    "--one-file-system", "--owner", "--partial", "--perms", "--progress", "--quiet", "--recursive",
    "--sparse", "--specials", "--stats", "--times", "--verbose", "--xattrs",
))  # fmt: skip
_LETTERS = {
    "z": "--compress",
    "4": "--ipv4",
    "6": "--ipv6",
    "c": "--checksum",
    "W": "--whole-file",
    "m": "--prune-empty-dirs",
}
# Options that want a value, which may be the next word.
_WITH_VALUE = frozenset((
    "--block-size", "--bwlimit", "--checksum-choice", "--chmod", "--chown", "--compare-dest",
    "--compress-choice", "--compress-level", "--copy-dest", "--debug", "--exclude",
    "--exclude-from", "--files-from", "--filter", "--iconv", "--include", "--include-from",
    "--info", "--link-dest", "--log-file", "--max-alloc", "--max-delete", "--max-size",
    "--min-size", "--modify-window", "--out-format", "--partial-dir", "--password-file", "--port",
    "--rsh", "--rsync-path", "--skip-compress", "--temp-dir", "--timeout",
))  # fmt: skip
_SHORT_WITH_VALUE = {"e": "--rsh", "f": "--filter", "T": "--temp-dir", "B": "--block-size"}
_NOT_ALLOWED = "is not allowed"
_RATE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[kKmMgG]?)(i?[bB])?")


@dataclass
class Translated:
    """Settings of a job, patterns, a port of ssh; and what was refused, with the reason."""

    settings: dict[str, Any] = field(default_factory=dict)
    excludes: list[str] = field(default_factory=list)
    port: int | None = None
    refused: list[tuple[str, str]] = field(default_factory=list)


def translate(words: Sequence[str]) -> Translated:
    """Return what a job's options for rsync are in the new configuration."""
    made = Translated()
    kept: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word.startswith("-") and not word.startswith("--") and len(word) > 1:
            pending[:0] = _letters(word[1:], made, pending)
            continue
        name, sign, value = word.partition("=")
        if name in _WITH_VALUE and not sign:
            if not pending:
                made.refused.append((word, "lacks its value"))
                continue
            value = pending.pop(0)
        option = f"{name}={value}" if name in _WITH_VALUE else word
        if not _set(name, value, made) and option not in kept:
            if name in RSYNC_OPTIONS and (name not in _WITH_VALUE or value):
                kept.append(option)
            else:
                made.refused.append((option, _NOT_ALLOWED))
    if kept:
        made.settings["rsync_options"] = kept
    return made


def _letters(letters: str, made: Translated, pending: list[str]) -> list[str]:
    """Return the long options that a cluster of letters stands for, without the needless ones."""
    long: list[str] = []
    for place, letter in enumerate(letters):
        if letter in _SHORT_WITH_VALUE:
            rest = letters[place + 1 :] or (pending.pop(0) if pending else "")
            return [*long, f"{_SHORT_WITH_VALUE[letter]}={rest}"]
        if letter in _LETTERS:
            long.append(_LETTERS[letter])
        elif letter not in _NEEDLESS_LETTERS:
            made.refused.append((f"-{letter}", _NOT_ALLOWED))
    return long


def _set(name: str, value: str, made: Translated) -> bool:
    """Turn an option into a setting; return whether it is dealt with."""
    if name in _NEEDLESS:
        return True
    if name == "--whole-file":
        made.settings["whole_file"] = True
    elif name in ("--no-one-file-system", "--no-x"):
        made.settings["one_file_system"] = False
    elif name == "--exclude" and value:
        made.excludes.append(value)
    elif name == "--exclude-from":
        _exclude_from(value, made)
    elif name == "--bwlimit":
        _rate(value, made)
    elif name == "--max-size" and re.fullmatch(r"[1-9]\d*(\.\d+)?[kKmMgG]", value):
        made.settings["exclude_larger_than"] = value.upper()
    elif name == "--rsh":
        _remote_shell(value, made)
    else:
        return False
    return True


def _rate(value: str, made: Translated) -> None:
    """Set the bandwidth; without a unit rsync means K."""
    found = _RATE.fullmatch(value)
    if not found:
        made.refused.append((f"--bwlimit={value}", "is no rate"))
        return
    number, unit = float(found["number"]), (found["unit"] or "K").upper()
    if 0 < number < 1 and unit in "MG":
        # Settings begin with a digit that counts.
        number, unit = number * 1000, {"M": "K", "G": "M"}[unit]
    if number > 0:
        made.settings["bandwidth_limit"] = f"{max(number, 1):.12g}{unit}"


def _exclude_from(value: str, made: Translated) -> None:
    try:
        lines = Path(value).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError, ValueError):
        made.refused.append((f"--exclude-from={value}", "names a file that cannot be read"))
        return
    patterns = (line.strip() for line in lines)
    made.excludes += [
        each.removeprefix("- ") for each in patterns if each and not each.startswith(("#", ";"))
    ]


def _remote_shell(value: str, made: Translated) -> None:
    """Take the port out of `ssh -p 2222`; all other options of ssh are the engine's own."""
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    words = [
        part for word in words for part in (["-p", word[2:]] if re.fullmatch(r"-p\d+", word) else [word])
    ]
    rest = words[1:]
    if "-p" in rest[:-1]:
        at = rest.index("-p")
        number = rest[at + 1]
        if number.isdecimal() and 0 < int(number) < 65536:
            made.port = int(number)
            del rest[at : at + 2]
    if words[:1] != ["ssh"] or rest:
        made.refused.append((f"--rsh={value}", "is the engine's own matter, but for a port"))
