"""Compare two trees as a person would who lost one: content, kind, mode, owner, time, links."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def describe(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Return for each path below a folder everything that a restored copy must share with the original."""
    top = os.fsencode(root)
    links: dict[tuple[int, int], bytes] = {}
    described: dict[bytes, tuple[object, ...]] = {}
    for path in sorted(_walk(top)):
        facts = os.lstat(path)
        name = os.path.relpath(path, top)
        first = links.setdefault((facts.st_dev, facts.st_ino), name)
        described[name] = (
            stat.filemode(facts.st_mode),
            facts.st_uid,
            facts.st_gid,
            facts.st_mtime_ns if not stat.S_ISLNK(facts.st_mode) else 0,
            _content(path, facts),
            None if stat.S_ISDIR(facts.st_mode) else first,
            {}
            if stat.S_ISLNK(facts.st_mode)
            else {key: os.getxattr(path, key) for key in os.listxattr(path)},
        )
    return described


def _walk(top: bytes) -> Iterator[bytes]:
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            yield os.path.join(folder, name)  # noqa: PTH118  pathlib knows no paths of bytes


def _content(path: bytes, facts: os.stat_result) -> object:
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(path)  # noqa: PTH115  as above
    if stat.S_ISREG(facts.st_mode):
        with open(path, "rb") as file:  # noqa: PTH123  as above
            return hashlib.file_digest(file, "sha256").hexdigest()
    return facts.st_rdev
