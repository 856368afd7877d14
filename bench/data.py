"""Make the home that is backed up and what its owner does to it each day, all from one seed.

What a day does depends on the seed and the day alone, so two runs, or two programs, see the very same
trees.  Nothing here is measured.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

# Some moment before all days, in seconds since 1970: 2026-01-01.
EPOCH = 1_767_225_600
DAY = 86_400
NS = 1_000_000_000
OWNER = 1000
BLOCK = 64 << 10
TEXT_SIZE = 4 << 20
DEPTH = 9
TOPS = (
    "Documents", "Pictures", "Music", "Videos", "Mail/cur", "Downloads", "src", ".cache", ".config",
    ".local/share",
)  # fmt: skip
TEXT_ENDS = (".txt", ".py", ".c", ".html", ".eml", ".md", ".json", ".log")
BINARY_ENDS = (".jpg", ".pdf", ".mp3", ".gz", ".sqlite", ".bin")
IMAGE = "Machines/disk.img"


@dataclass(frozen=True)
class Size:
    """How much there is: regular files, bytes of all of them, bytes of the disk image among them."""

    name: str
    files: int
    bytes: int
    image: int
    many: int
    """Names of empty files in the other data set."""
    days: int = 30
    """Days in a row."""
    rounds: int = 3
    """How often everything is done, unless another number is asked for."""
    fs: tuple[str, ...] = ("ext4", "xfs", "btrfs")
    """On which file systems, unless others are asked for."""


SIZES = {
    "small": Size("small", 2_000, 40 << 20, 6 << 20, 20_000, days=6, rounds=1, fs=("ext4",)),
    "full": Size("full", 100_000, 2_000 << 20, 300 << 20, 1_000_000),
}


class DataSet(Protocol):
    """A tree that can be made, and changed day by day."""

    def fill(self, top: Path) -> None:
        """Make the tree of day 0 in an empty directory."""

    def change(self, top: Path, day: int) -> None:
        """Turn the tree of the day before into that of `day`."""


class Empty:
    """A great many empty files, a thousand in a folder, a tenth of them second names; nothing changes."""

    def __init__(self, size: Size) -> None:
        self._count = size.many

    def fill(self, top: Path) -> None:
        """Make the tree."""
        for number in range(self._count):
            folder = top / f"{number // 1000:04}"
            if number % 1000 == 0:
                folder.mkdir()
            path = folder / f"file-{number}"
            if number % 10 == 9:
                path.hardlink_to(folder / f"file-{number - 1}")
            else:
                path.touch()
                os.utime(path, (EPOCH, EPOCH))
            if number % 1000 == 999:
                os.utime(folder, (EPOCH, EPOCH))

    def change(self, top: Path, day: int) -> None:
        """Do nothing."""


@dataclass
class Home:
    """A home of text, pictures, mail and caches, with one disk image, hard links and symbolic links."""

    size: Size
    seed: int
    _folders: list[str] = field(default_factory=list)
    _files: list[str] = field(default_factory=list)
    _linked: set[str] = field(default_factory=set)
    """Files with several names: never written in place, so that no other name changes by accident."""
    _text: bytes = b""

    def fill(self, top: Path) -> None:
        """Make the tree of day 0 in an empty directory."""
        rng = random.Random(f"{self.seed} fill")  # noqa: S311 - reproducible on purpose
        self._text = _text(rng)
        self._folders, self._files, self._linked = [], [], set()
        self._make_folders(top, rng)
        names = self.size.files - 1
        links, copies = names // 100, names * 3 // 100
        for number, length in enumerate(self._lengths(names - links - copies, rng)):
            self._new_file(top, rng, number, length, day=0)
        for number in range(copies):
            self._copy(top, rng, number)
        for number in range(links):
            self._link(top, rng, number)
        for number in range(self.size.files // 50):
            target = rng.choice(self._files)
            link = top / rng.choice(self._folders) / f"link-{number}"
            link.symlink_to(f"/home/owner/{target}")
            _stamp(link, rng, 0)
        self._make_image(top, rng)
        self._settle(top, rng)

    def change(self, top: Path, day: int) -> None:
        """Modify 1 %, add 0.5 %, delete 0.5 %, rename a folder, write 1/300 of the disk image."""
        rng = random.Random(f"{self.seed} day {day}")  # noqa: S311 - as above
        before = _folder_times(top)
        share = max(1, len(self._files) // 200)
        for name in rng.sample(self._files, share):
            (top / name).unlink()
            self._linked.discard(name)
            self._files.remove(name)
        plain = [name for name in self._files if name not in self._linked]
        for name in rng.sample(plain, min(len(plain), 2 * share)):
            self._modify(top / name, rng, day)
        for number, length in enumerate(self._lengths(share, rng, scaled=False)):
            self._new_file(top, rng, number, length, day)
        for name in rng.sample(self._files, max(1, share // 5)):
            (top / name).chmod(rng.choice((0o600, 0o640, 0o644)))
        self._rename_folder(top, rng, day)
        self._write_image(top / IMAGE, rng, day)
        # Else all folders would have changed just now, as if the day's work had been done in a second.
        for folder, time in sorted(_folder_times(top).items()):
            if time != before.get(folder):
                _stamp(folder, rng, day)

    def names(self) -> list[str]:
        """Return the names of all files below the top, sorted, without the disk image."""
        return sorted(self._files)

    def sample(self) -> str:
        """Return the name of one file with a single name, somewhere in the middle."""
        single = [name for name in self.names() if name not in self._linked]
        return single[len(single) // 2]

    def _make_folders(self, top: Path, rng: random.Random) -> None:
        self._folders = list(TOPS)
        for number in range(max(len(TOPS), self.size.files // 12)):
            parent = rng.choice(self._folders)
            if parent.count("/") >= DEPTH:
                parent = rng.choice(TOPS)
            self._folders.append(f"{parent}/folder-{number}")
        for folder in self._folders:
            (top / folder).mkdir(parents=True, exist_ok=True)

    def _lengths(self, count: int, rng: random.Random, scaled: bool = True) -> Iterator[int]:
        """Yield lengths as homes have them: half below 3 kB, few of megabytes; by default that of all."""
        drawn = [rng.lognormvariate(math.log(3000), 1.9) for _ in range(count)]
        factor = 1.0 if not scaled else (self.size.bytes - self.size.image) / (sum(drawn) * 1.03)
        yield from (int(length * factor) for length in drawn)

    def _new_file(self, top: Path, rng: random.Random, number: int, length: int, day: int) -> None:
        binary = rng.random() < (0.3 if length < BLOCK else 0.7)
        end = rng.choice(BINARY_ENDS if binary else TEXT_ENDS)
        name = f"{rng.choice(self._folders)}/day{day}-{number}{end}"
        (top / name).write_bytes(self._content(rng, length, binary))
        (top / name).chmod(rng.choice((0o644, 0o644, 0o644, 0o600, 0o755)))
        os.chown(top / name, OWNER, OWNER)
        _stamp(top / name, rng, day)
        self._files.append(name)

    def _content(self, rng: random.Random, length: int, binary: bool) -> bytes:
        """Return bytes that do not compress, or text that does, with a first line of its own."""
        if binary:
            return rng.randbytes(length)
        parts, have = [b"%016x\n" % rng.getrandbits(64)], 17
        while have < length:
            begin = rng.randrange(TEXT_SIZE // 2)
            parts.append(self._text[begin : begin + length - have])
            have += len(parts[-1])
        return b"".join(parts)[:length]

    def _copy(self, top: Path, rng: random.Random, number: int) -> None:
        name = f"{rng.choice(self._folders)}/copy-{number}"
        shutil.copyfile(top / rng.choice(self._files), top / name)
        _stamp(top / name, rng, 0)
        self._files.append(name)

    def _link(self, top: Path, rng: random.Random, number: int) -> None:
        first = rng.choice(self._files)
        name = f"{rng.choice(self._folders)}/hard-{number}"
        (top / name).hardlink_to(top / first)
        self._linked |= {first, name}
        self._files.append(name)

    def _make_image(self, top: Path, rng: random.Random) -> None:
        path = top / IMAGE
        path.parent.mkdir()
        with path.open("wb") as file:
            for number in range(self.size.image // BLOCK):
                # Every other block is text: a file system inside the image has both.
                file.write(self._content(rng, BLOCK, binary=number % 2 == 0))
        _stamp(path, rng, 0)

    def _settle(self, top: Path, rng: random.Random) -> None:
        """Give everything to its owner, and the folders their times, deepest first."""
        for folder, folders, files in os.walk(top, topdown=False):
            for name in [*folders, *files]:
                os.chown(os.path.join(folder, name), OWNER, OWNER, follow_symlinks=False)  # noqa: PTH118 - cheap
            if folder != str(top):
                _stamp(Path(folder), rng, 0)

    def _modify(self, path: Path, rng: random.Random, day: int) -> None:
        """Change a file as programs do: replace it, append to it, or write into it."""
        way, content = rng.random(), path.read_bytes()
        if way < 0.5:
            fresh = path.with_name(f".{path.name}.new"[-250:])
            fresh.write_bytes(self._content(rng, len(content) + rng.randrange(100), binary=False))
            fresh.chmod(path.stat().st_mode & 0o777)
            os.chown(fresh, OWNER, OWNER)
            fresh.replace(path)
        elif way < 0.8:
            with path.open("ab") as file:
                file.write(self._content(rng, 200 + rng.randrange(2000), binary=False))
        else:
            with path.open("r+b") as file:
                file.seek(rng.randrange(len(content) + 1))
                file.write(rng.randbytes(100))
        _stamp(path, rng, day)

    def _rename_folder(self, top: Path, rng: random.Random, day: int) -> None:
        """Give a new name to a folder that holds some three thousandths of the files, or what is nearest."""
        wanted = self.size.files * 3 // 1000
        counts = dict.fromkeys(self._folders[len(TOPS) :], 0)
        for name in self._files:
            folder = name.rpartition("/")[0]
            while folder:
                if folder in counts:
                    counts[folder] += 1
                folder = folder.rpartition("/")[0]
        old = min(counts, key=lambda folder: (abs(counts[folder] - wanted), folder))
        new = f"{rng.choice(TOPS)}/renamed-{day}"
        (top / old).rename(top / new)

        def renamed(name: str) -> str:
            return new + name[len(old) :] if f"{name}/".startswith(f"{old}/") else name

        self._folders = [renamed(name) for name in self._folders]
        self._files = [renamed(name) for name in self._files]
        self._linked = {renamed(name) for name in self._linked}

    def _write_image(self, path: Path, rng: random.Random, day: int) -> None:
        """Write blocks all over the disk image."""
        with path.open("r+b") as file:
            for _ in range(max(1, self.size.image // 300 // BLOCK)):
                file.seek(rng.randrange(self.size.image // BLOCK) * BLOCK)
                file.write(rng.randbytes(BLOCK))
        _stamp(path, rng, day)


def _text(rng: random.Random) -> bytes:
    """Return words of a made-up language, the frequent ones often: gzip makes about a third of it."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return " ".join(rng.choices(words, weights, k=TEXT_SIZE // 4)).encode()[:TEXT_SIZE]


def _folder_times(top: Path) -> dict[Path, int]:
    """Return the time of each folder below the top, nanoseconds."""
    found = (Path(folder) for folder, _, _ in os.walk(top) if folder != str(top))
    return {folder: folder.stat().st_mtime_ns for folder in found}


def _stamp(path: Path, rng: random.Random, day: int) -> None:
    """Set the time of a change on that day, or before all days, to the nanosecond."""
    seconds = EPOCH + day * DAY + rng.randrange(DAY) if day else EPOCH - rng.randrange(1000 * DAY)
    at = seconds * NS + rng.randrange(NS)
    os.utime(path, ns=(at, at), follow_symlinks=False)
