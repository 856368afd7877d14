"""Walk several trees side by side.

Every path is reached from the open top of its tree, so it may be as long as rsync makes it, and a
snapshot that loses its name meanwhile is still read to its end.  Folders are read one at a time,
and of one with very many entries only a part is held, so memory stays small whatever the size of
the trees.  The sacred rule: a link is an entry like any other and is never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from flashback.below import open_tree
from flashback.errors import NotNowError

# Names of a folder that are held at once: about 10 MB. A fuller folder is read in parts.
CROWD = 50_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(tops: Sequence[Path]) -> Iterator[list[int]]:
    """Open the tops of trees; raise NotNowError when one is gone, at the beginning or at the end."""
    for top in tops:
        whole(top)
    with ExitStack() as stack:
        trees = []
        for top in tops:
            trees.append(open_tree(top))
            stack.callback(os.close, trees[-1])
        yield trees
    for top in tops:
        whole(top)


def whole(top: Path) -> None:
    """Raise NotNowError when a snapshot expired meanwhile: it may have been read half deleted.

    An expiring snapshot loses its name before its first file, so one that bears it is whole.
    """
    if not top.is_dir():
        raise NotNowError(
            f"{top} expired while it was read", "What was written or shown is not complete; try again"
        )


def walk(trees: Sequence[int], top: str = "") -> Iterator[tuple[str, Sequence[int]]]:
    """Yield every path below a folder of any open tree once, a folder before what is in it.

    With it come those trees in which all that leads to it are folders: only there may it be looked at.
    The order is that of the names, but for folders of more than CROWD entries.
    """
    pending = [(f"{top}/" if top else "", trees, _names(trees, top))]
    while pending:
        prefix, holders, names = pending[-1]
        for name, folders in names:
            path = prefix + name
            yield path, holders
            if folders:
                pending.append((f"{path}/", folders, _names(folders, path)))
                break
        else:
            pending.pop()


def beneath(tree: int, source: str) -> Iterator[str]:
    """Yield a path of an open tree and every path below it; `.` is all of the tree, without its top."""
    top = "" if source == "." else source
    if top:
        yield top
    if not top or is_folder(look(tree, top)):
        yield from (path for path, _ in walk([tree], top))


def is_folder(status: os.stat_result | None) -> bool:
    """Return whether an entry is there and a folder, not a link to one."""
    return status is not None and stat.S_ISDIR(status.st_mode)


def look(tree: int, path: str) -> os.stat_result | None:
    """Return what is known of an entry of an open tree; None when it is not there."""
    try:
        return os.stat(path, dir_fd=tree, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _names(trees: Sequence[int], folder: str) -> Iterator[tuple[str, list[int]]]:
    """Yield each name in a folder once, with the trees in which it is a folder itself."""
    known: dict[str, list[int]] = {}
    for tree in trees:
        for name, is_folder in _entries(tree, folder):
            folders = known.setdefault(name, [])
            if is_folder:
                folders.append(tree)
            if len(known) > CROWD:
                yield from _crowd(trees, folder)
                return
    yield from sorted(known.items())


def _crowd(trees: Sequence[int], folder: str) -> Iterator[tuple[str, list[int]]]:
    """Yield the same for a folder whose names are too many to be held."""
    for position, tree in enumerate(trees):
        entries = _entries(tree, folder)
        while part := sorted(islice(entries, CROWD)):
            for name, _ in part:
                path = f"{folder}/{name}" if folder else name
                if any(look(before, path) for before in trees[:position]):
                    continue
                found = [(each, look(each, path)) for each in trees]
                yield name, [each for each, status in found if is_folder(status)]


def _entries(tree: int, folder: str) -> Iterator[tuple[str, bool]]:
    """Yield (name, whether it is a folder) of a folder; nothing when it is not there any more."""
    try:
        descriptor = os.open(folder or ".", _FOLDER, dir_fd=tree)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir(follow_symlinks=False)
    finally:
        os.close(descriptor)
