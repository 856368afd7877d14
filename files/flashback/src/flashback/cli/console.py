"""What a person sees on a terminal: tables as wide as it is, a bar while a backup runs, some colour.

Anywhere else (a pipe, a file, a mail from cron) a command prints its plain lines, one for each row, for
grep and scripts.  The sacred rule: nothing done here touches a plain line, and no colour says anything
that the words beside it do not say.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from flashback.model import Progress

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

Row = Sequence[str]

# What separates two columns.
GAP = 2
# How much wider than its name a column is at least (tabulate.MIN_PADDING).
PADDING = 2
# Sentences in a narrower column than this are no pleasure to read.
LEGIBLE = 20
# The shortest bar that still shows something.
BAR = 8
# The colour of a state, by the word that a cell begins with.
COLOURS = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "NOT_FOUND": "yellow",
    "NOT FOUND": "yellow",
    "BACKING_UP": "cyan",
    "BACKING UP": "cyan",
    "yes": "green",
    "no": "yellow",
}


def on_terminal() -> bool:
    """Return whether a person reads the output on a terminal."""
    return sys.stdout.isatty()


def paint(text: str, colour: str | None) -> str:
    """Return text in a colour, where the terminal has colours and its user wants them (NO_COLOR)."""
    if not colour or not on_terminal() or os.environ.get("NO_COLOR") or _dumb():
        return text
    return click.style(text, fg=colour)


def say(line: str, colour: str | None = None) -> None:
    """Print one line; on a terminal its long words stay whole, the lines that follow are indented."""
    if not on_terminal():
        print(line, flush=True)
        return
    for each in _wrapped(_clean(line), _columns(), "  ").splitlines() or [""]:
        print(paint(each, colour), flush=True)


def amount(count: float) -> str:
    """Return a number of bytes as people write it: `640 B`, `12.3 MB`."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0
    while count >= 999.95 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.1f} {units[power]}" if power else f"{count:.0f} B"


def told(progress: Progress) -> list[str]:
    """Return how far a transfer is, for a person: files, bytes, rate and time left, as far as known."""
    from flashback.schedule import plain  # noqa: PLC0415 - only while something runs

    parts = [f"{progress.files} files", amount(progress.bytes), f"{amount(progress.rate)}/s"]
    if progress.seconds_left is not None:
        parts.append(f"{plain(progress.seconds_left)} left")
    return parts


# --- tables ------------------------------------------------------------------------------------------------


def table(
    head: Row,
    rows: Iterable[Row],
    plain: Iterable[str],
    *,
    state: str = "",
    right: Collection[str] = (),
    empty: str = "",
) -> None:
    """Print rows as a table on a terminal and the plain lines elsewhere.

    The last column gives way on a narrow terminal: its words are wrapped.  Where even that leaves no room,
    each row is written as a few lines below its first cell.  `state` names the column that gets colours,
    `right` those of figures; `empty` is what a person is told when there are no rows.
    """
    lines = plain
    if on_terminal():
        cells = [[_clean(cell) for cell in row] for row in rows]
        lines = _drawn(head, cells, state, right) or plain if cells else filter(None, [empty])
    for line in lines:
        print(line)


def _drawn(head: Row, rows: Sequence[Row], state: str, right: Collection[str]) -> Iterable[str] | None:
    """Return the lines for a terminal, None when the library is not installed."""
    try:
        # With Debian 12's versions, loading it and drawing twenty rows takes 4 ms of CPU on x86-64 and some
        # 0.1 s on a plug; with rich 36 ms and 0.9 s, and 5 MB of memory more. All else that
        # `flashback status` does takes 95 ms and 2.4 s.
        from tabulate import tabulate  # noqa: PLC0415 - as above
    except ImportError:
        return None
    room = _room(head, rows)
    if room is None:
        return _records(head, rows, state)
    cells = [
        [
            _painted(cell) if name == state else cell
            for name, cell in zip(head, (*row[:-1], _wrapped(row[-1], room)), strict=True)
        ]
        for row in rows
    ]
    sides = ["right" if name in right else "left" for name in head]
    drawn = tabulate(cells, headers=head, tablefmt="simple", disable_numparse=True, colalign=sides)
    return [line.rstrip() for line in drawn.splitlines()]


def _room(head: Row, rows: Sequence[Row]) -> int | None:
    """Return how wide the last column may be, None when a table is too wide for the terminal."""
    widths = [
        max(len(name) + PADDING, *map(_width, cells))
        for name, cells in zip(head, zip(*rows, strict=True), strict=True)
    ]
    room = _columns() - sum(widths[:-1]) - GAP * (len(head) - 1)
    word = max((len(word) for row in rows for word in row[-1].split()), default=0)
    return room if room >= max(word, len(head[-1]) + PADDING, min(widths[-1], LEGIBLE)) else None


def _records(head: Row, rows: Sequence[Row], state: str) -> Iterator[str]:
    """Yield each row as its first cell, then its other cells below, each with its name."""
    indent = max(map(len, head)) + 2 * GAP
    for row in rows:
        yield row[0]
        for name, cell in zip(head[1:], row[1:], strict=True):
            lines = _wrapped(cell, _columns() - indent).splitlines()
            for first, line in zip([name, *[""] * len(lines)], lines, strict=False):
                yield f"{'':{GAP}}{first:{indent - GAP}}{_painted(line) if name == state else line}"


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """Return text broken between words only: a path that the terminal itself breaks can still be copied."""
    lines = []
    for line in text.splitlines():
        following = "  " if line.startswith("- ") else indent
        lines += textwrap.wrap(
            line,
            max(width, 1),
            break_long_words=False,
            break_on_hyphens=False,
            subsequent_indent=following,
        )
    return "\n".join(lines)


def _painted(cell: str) -> str:
    """Return a cell in the colour of its state, line by line: a colour must not run into the next row."""
    words = " ".join(cell.split())
    colour = next((COLOURS[state] for state in COLOURS if f"{words} ".startswith(f"{state} ")), None)
    return "\n".join(paint(line, colour) for line in cell.splitlines())


def _clean(cell: str) -> str:
    """Return a cell that cannot steer the terminal, whatever a client called its files."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in cell)


def _width(cell: str) -> int:
    return max(map(len, cell.splitlines()), default=0)


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _dumb() -> bool:
    return os.environ.get("TERM", "dumb") == "dumb"


# --- the bar -----------------------------------------------------------------------------------------------


class Meter:
    """A bar that shows how far a backup is; nothing on what cannot move its cursor.

    Whoever uses it calls `clear` before printing anything else and at the end, whatever happens.
    """

    def __init__(self, *, moving: bool = True) -> None:
        self._moving = moving and on_terminal() and not _dumb()
        self._bar: ProgressBar[int] | None = None
        self._waiting = False

    def wait(self, words: str) -> None:
        """Show what is being waited for, until something happens."""
        if self._moving:
            self.clear()
            print(words[: _columns() - 1], end="", flush=True)
            self._waiting = True

    def advance(self, job: str, progress: Progress) -> None:
        """Show how far the backup of a job is."""
        if not self._moving:
            return
        if self._waiting:
            self.clear()
        if self._bar is None:
            self._bar = click.progressbar(
                length=100, width=0, show_eta=False, show_percent=True, bar_template="%(label)s%(info)s"
            )
        template, label, words = _fitting(job, told(progress), _columns())
        self._bar.bar_template, self._bar.label = template, label
        self._bar.item_show_func = lambda _: words or None
        # 100 per cent of what rsync knows so far is not the end: the result that follows is.
        self._bar.make_step(min(progress.percent, 99) - self._bar.pos)
        self._bar.render_progress()

    def clear(self) -> None:
        """Take away what does not stay, and give the cursor back."""
        if self._bar is not None or self._waiting:
            print("\r\033[K\033[?25h", end="", flush=True)
        self._bar, self._waiting = None, False


def _fitting(job: str, parts: Sequence[str], columns: int) -> tuple[str, str, str]:
    """Return template, label and words of a bar that fits: the least important parts are left out first."""
    for label, words in (
        (f"{job}  ", parts),
        (f"{job}  ", parts[1:]),
        ("", parts[1:]),
        ("", parts[2:]),
        ("", parts[3:]),
    ):
        said = "  ".join(words)
        if len(label) + BAR + len("[]  100%  ") + len(said) <= columns:
            return "%(label)s[%(bar)s]  %(info)s", label, said
    return "%(info)s", "", ""
