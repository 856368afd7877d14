"""Read listings: what a tree holds, one line an entry, sorted, so that two of them tell what changed.

    NAME[ -> TARGET | => FIRST]  MODE  UID  GID  MTIME  [?]TYPE[SIZE]      (separated by tabs)

A line is what rsync says of an entry while it lists, with its own escaping (`\\#ooo`); FIRST is the
first name of the same inode, TYPE begins with h for the others.  A question mark before TYPE says that
nobody knows whether the stored entry is like that: such a line equals no other, so the entry is
looked at again.

Only the lines that differ are read into memory.  Nothing here touches a client or a snapshot.  The sacred
rule: in doubt an entry counts as changed.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from flashback.errors import FlashbackError
from flashback.guard import Totals
from flashback.model import Changes

DOUBT = b"?"
# What stands between a name and the first name of the same inode.
LINKED = b" => "
# How rsync is asked for such a line, but for the size of folders and the signs of what is new.
FORMAT = "%n%L\t%B\t%U\t%G\t%M\t%i%l"
_TYPE = re.compile(rb"(?P<doubt>\??)(?P<sign>[<>ch.*]?)(?P<kind>[fdLDS])(?P<size>\d*)")
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
# What rsync escapes when it lets 8-bit names through (log.c): control signs but tabs, and what looks escaped.
_TO_ESCAPE = re.compile(rb"[\x00-\x08\x0a-\x1f]|\\(?=#[0-9]{3})")
# How the line of a folder ends.
FOLDER = (b"\td\n", b"\t?d\n")


class UnclearError(FlashbackError):
    """A listing cannot be relied upon; everything has to be compared."""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry; `name` is the raw path, `first` the first name of the same inode where this is another."""

    name: bytes
    kind: str
    """f, d, L (link), D (device) or S (special), as rsync has it."""
    size: int
    mode: bytes
    owner: tuple[bytes, bytes]
    mtime: bytes
    """Seconds, in UTC, as rsync writes them: they sort as text."""
    first: bytes | None = None
    target: bytes | None = None
    doubt: bool = False

    @property
    def content(self) -> tuple[str, int, bytes]:
        """Return what is different when the content is."""
        return self.kind, self.size, self.mtime


def parse(line: bytes) -> Item | None:
    """Return the entry of a line, or None for what rsync says beside its listing."""
    words = line.rstrip(b"\n").rsplit(b"\t", 5)
    found = _TYPE.fullmatch(words[-1]) if len(words) == 6 else None
    if found is None:
        return None
    text, mode, uid, gid, mtime, _ = words
    kind, size = found["kind"].decode(), int(found["size"] or 0)
    first = target = None
    if found["sign"] == b"h":
        text, first = _name_and_first(text)
    name = raw(text)
    if kind == "L" and first is None:
        # rsync gives the length of the target as its size.
        name, target = name[: -size - 4], name[len(name) - size :]
    return Item(name.rstrip(b"/"), kind, size, mode, (uid, gid), mtime, first, target, bool(found["doubt"]))


def _name_and_first(text: bytes) -> tuple[bytes, bytes]:
    """Return the name of a hard link as it is written, and the first name of its inode."""
    if text.count(LINKED) != 1:
        raise UnclearError(f"the name of a hard link is not clear: {text!r}")
    name, _, first = text.partition(LINKED)
    return name, raw(first)


def raw(text: bytes) -> bytes:
    """Return the bytes of a name that rsync has escaped."""
    return _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), text) if b"\\#" in text else text


def _escaped(name: bytes) -> bytes:
    """Return a name as rsync writes it."""
    return _TO_ESCAPE.sub(lambda sign: b"\\#%03o" % sign[0][0], name)


def doubted(line: bytes) -> bytes:
    """Return a line in such a form that it equals no other."""
    before, _, kind = line.rpartition(b"\t")
    return line if kind.startswith(DOUBT) else before + b"\t" + DOUBT + kind


# --- two listings ------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """What differs between an old listing and a new one."""

    old: dict[bytes, Item] = field(default_factory=dict)
    """Entries that are gone or were different."""
    new: dict[bytes, Item] = field(default_factory=dict)
    """Entries that are new or different, and those that are to be looked at with them."""
    anew: set[bytes] = field(default_factory=set)
    """Names that shared an inode with a name that is another file now."""

    def with_folders(self, names: Iterable[bytes]) -> set[bytes]:
        """Return names together with those of their folders that are new or different."""
        return {*names, *(self.new.keys() & map(folder_of, names))}

    def folders_as_they_were(self) -> set[bytes]:
        """Return the folders in which something differs, without those that differ themselves."""
        return set(map(folder_of, (*self.old, *self.new))) - self.old.keys() - self.new.keys()

    def changes(self, before: Totals, entries: int) -> tuple[Changes, Totals, int]:
        """Return how the new tree differs in content, its totals, and the number of its entries."""
        gone = [item for item in self.old.values() if item.kind == "f"]
        come = [item for item in self.new.values() if item.kind == "f"]
        kept = [
            item for item in come if item.name in self.old and self.old[item.name].content == item.content
        ]
        after = Totals(
            before.files - len(gone) + len(come),
            before.bytes - sum(item.size for item in gone) + sum(item.size for item in come),
        )
        lost, lost_bytes = (
            len(gone) - len(kept),
            sum(each.size for each in gone) - sum(each.size for each in kept),
        )
        found = Changes(after.files, after.bytes, before.files - lost, before.bytes - lost_bytes)
        return found, after, entries - len(self.old) + len(self.new)


def folder_of(name: bytes) -> bytes:
    """Return the path of the folder that holds an entry."""
    return name.rpartition(b"/")[0] or b"."


def compare(
    difference: Path, old: Path, new: Path, special: Iterable[bytes], limit: int, *, above: bool = False
) -> Comparison:
    """Return what differs, with all that has to be looked at together, and with `above` all folders above it.

    `difference` holds the lines that only one of the listings has, those of `new` after a tab (comm -3);
    `special` names entries with attributes that no listing shows.  Raises UnclearError above `limit` entries.
    """
    made = Comparison()
    with difference.open("rb") as lines:
        for line in lines:
            item = parse(line[1:] if line.startswith(b"\t") else line)
            if item is None:
                continue
            (made.new if line.startswith(b"\t") else made.old)[item.name] = item
            _bound(made, limit)
    with Sorted(old) as before, Sorted(new) as after:
        _look_into_folders(made, before, after, limit)
        for name in special:
            _look_at(made, name, before, after)
            _bound(made, limit)
        groups_before, groups_after = _groups(made, old, new)
        for names in (*groups_before.values(), *groups_after.values()):
            for name in names:
                _look_at(made, name, before, after)
            _bound(made, limit)
        if above:
            _look_at_folders_above(made, before, after)
        made.anew = _parted(made, groups_before, groups_after)
    return made


def _bound(made: Comparison, limit: int) -> None:
    if len(made.old) + len(made.new) > limit:
        raise UnclearError(f"more than {limit} entries differ")


def _look_at(made: Comparison, name: bytes, before: Sorted, after: Sorted) -> None:
    """Let an entry that may be as it was be looked at all the same."""
    if name in made.new or name in made.old:
        return
    same, now = before.find(name), after.find(name)
    if same is not None and now is not None:
        made.old[name], made.new[name] = same, now


def _look_into_folders(made: Comparison, before: Sorted, after: Sorted, limit: int) -> None:
    """Look at the entries of a changed folder that may have exchanged their names.

    Only what has the size and the second of another entry can have taken its place unseen: of one that is in
    the folder too, or of one that has left its own place.
    """
    changed = [
        item
        for name, item in made.new.items()
        if item.kind == "d" and (was := made.old.get(name)) and (was.doubt or was.mtime != item.mtime)
    ]
    moved = {item.content for name, item in made.old.items() if name not in made.new}
    for folder in changed:
        alike: dict[bytes, list[bytes]] = {}
        for line in after.lines_in(folder.name):
            alike.setdefault(line[_text_end(line) :], []).append(line)
        for tail, lines in alike.items():
            if len(lines) > 1 or _content(tail) in moved:
                _look_at_lines(made, lines, before, after)
        _bound(made, limit)


def _look_at_lines(made: Comparison, lines: Iterable[bytes], before: Sorted, after: Sorted) -> None:
    for item in filter(None, map(parse, lines)):
        # Nothing can be exchanged for nothing.
        if item.size:
            _look_at(made, item.name, before, after)


def _text_end(line: bytes) -> int:
    """Return where the name ends in a line."""
    return len(line.rsplit(b"\t", 5)[0])


def _content(tail: bytes) -> tuple[str, int, bytes] | None:
    """Return what `Item.content` is of a line, from what follows its name."""
    *_, mtime, kind = tail.rstrip(b"\n").split(b"\t")
    found = _TYPE.fullmatch(kind)
    return None if found is None else (found["kind"].decode(), int(found["size"] or 0), mtime)


def _look_at_folders_above(made: Comparison, before: Sorted, after: Sorted) -> None:
    for name in [*made.old, *made.new]:
        above = name
        while above != b".":
            above = folder_of(above)
            if above in made.new:
                break
            _look_at(made, above, before, after)


def _groups(
    made: Comparison, old: Path, new: Path
) -> tuple[dict[bytes, set[bytes]], dict[bytes, set[bytes]]]:
    """Return, by first name, the names of each inode with several names that anything touched has to do with.

    A group that one listing brings in can bring in one of the other, and so on.
    """
    touched = {*made.old, *made.new}
    if not touched:
        return {}, {}
    while True:
        found = _touching(old, touched), _touching(new, touched)
        wider = touched.union(*found[0].values(), *found[1].values())
        if len(wider) == len(touched):
            return found
        touched = wider


def _touching(listing: Path, touched: set[bytes]) -> dict[bytes, set[bytes]]:
    wanted = {first for first, name in _links(listing) if first in touched or name in touched}
    groups: dict[bytes, set[bytes]] = {first: {first} for first in wanted}
    for first, name in _links(listing) if wanted else ():
        if first in wanted:
            groups[first].add(name)
    return groups


def _links(listing: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (first name, other name) of the inodes with several names."""
    with Sorted(listing) as lines:
        for line in lines.holding(LINKED):
            text, *words = line.rsplit(b"\t", 5)
            if len(words) == 5 and words[-1].lstrip(DOUBT).startswith(b"h"):
                name, first = _name_and_first(text)
                yield first, raw(name)


def _parted(made: Comparison, before: dict[bytes, set[bytes]], after: dict[bytes, set[bytes]]) -> set[bytes]:
    """Return the names to be fetched anew, lest they stay one file with what they were parted from."""
    now = {name: first for first, names in after.items() for name in names}
    anew: set[bytes] = set()
    for names in before.values():
        left = sorted(name for name in names if name in made.new)
        files = {now.get(name, name) for name in left}
        for other in sorted(files)[1:]:
            anew |= after.get(other, {other})
    return anew


class Sorted:
    """Finds single lines in a sorted listing without reading it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Sorted:
        with self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def find(self, name: bytes) -> Item | None:
        """Return the entry of that name."""
        place = self.place(name)
        return None if place is None else parse(self._map[place[0] : place[1]])

    def place(self, name: bytes) -> tuple[int, int] | None:
        """Return where the line of that name begins and ends."""
        text = _escaped(name)
        # Most of what is looked up are folders.
        for start in (text + b"/\t", text + b"\t", text + LINKED, text + b" -> "):
            at = self._first(start)
            while (line := self._line(at)).startswith(start):
                item = parse(line)
                if item is not None and item.name == name:
                    return at, at + len(line)
                at += len(line)
        return None

    def figure(self, words: str) -> int:
        """Return a figure that rsync wrote beside its listing; 0 when there is none."""
        start = words.encode() + b": "
        at = self._first(start)
        while (line := self._line(at)).startswith(start):
            # A file may be called like that.
            if (figure := line[len(start) :].strip()).isdigit():
                return int(figure)
            at += len(line)
        return 0

    def doubting(self, names: Iterable[bytes], target: BinaryIO) -> None:
        """Write the listing with the lines of these names in such a form that they equal no others."""
        done = 0
        for begin, end in sorted(place for name in names if (place := self.place(name)) is not None):
            target.write(self._map[done:begin])
            target.write(doubted(self._map[begin:end]))
            done = end
        target.write(self._map[done:])

    def lines_in(self, folder: bytes) -> Iterator[bytes]:
        """Yield the lines of what is in a folder and is no folder, nothing of what is below those."""
        start = b"" if folder == b"." else _escaped(folder) + b"/"
        at = self._first(start)
        while (line := self._line(at)) and line.startswith(start):
            at += len(line)
            if line.endswith(FOLDER):
                text = line[: _text_end(line)]
                if text not in (start, b"./"):
                    at = self._first(text[:-1] + b"0")
            elif b"\t" in line:
                yield line

    def holding(self, words: bytes) -> Iterator[bytes]:
        """Yield the lines that hold some words."""
        at = self._map.find(words)
        while at >= 0:
            begin = self._map.rfind(b"\n", 0, at) + 1
            line = self._line(begin)
            yield line
            at = self._map.find(words, begin + len(line)) if line else -1

    def _line(self, at: int) -> bytes:
        end = self._map.find(b"\n", at)
        return self._map[at : end + 1] if end >= 0 else b""

    def _first(self, start: bytes) -> int:
        """Return the place of the first line that is not less than `start`, in which no line ends."""
        low, high, length = 0, len(self._map), len(start)
        while low < high:
            before = self._map.rfind(b"\n", low, (low + high) // 2)
            middle = before + 1 if before >= 0 else low
            if self._map[middle : middle + length] < start:
                end = self._map.find(b"\n", middle)
                low = end + 1 if end >= 0 else len(self._map)
            else:
                high = middle
        return low
