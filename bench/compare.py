"""Say how far a restored tree is what was backed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rig import tree

from bench.data import NS

DIGEST = 64


def listing(top: Path) -> list[Any]:
    """Return everything in a tree but its top, as `differing` compares it."""
    return tree(top)[1:]


def differing(original: list[Any], restored: Path) -> dict[str, int]:
    """Return how many entries are missing or differ, by what differs."""
    found = {entry[0]: entry[1:] for entry in listing(restored)}
    counts = {"missing": 0, "added": len(found), "content": 0, "hard links": 0, "times": 0,
              "fractions of seconds": 0, "rights": 0, "attributes": 0}  # fmt: skip
    for name, numbers, content, attributes in original:
        if name not in found:
            counts["missing"] += 1
            continue
        counts["added"] -= 1
        other_numbers, other_content, other_attributes = found[name]
        mode, owner, owners, device, time, size = numbers
        other = other_numbers
        counts["content"] += (content[:DIGEST], size, device) != (other_content[:DIGEST], other[5], other[3])
        counts["hard links"] += content[DIGEST:] != other_content[DIGEST:]
        counts["times"] += time // NS != other[4] // NS
        counts["fractions of seconds"] += time % NS != other[4] % NS
        counts["rights"] += (mode, owner, owners) != other[:3]
        counts["attributes"] += attributes != other_attributes
    return {what: count for what, count in counts.items() if count}
