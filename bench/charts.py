"""Bar charts as SVG, the same bytes for the same figures.

Written out here and not by a library: the spread of the rounds is drawn too, nothing has to be installed to
make a report, and a picture of bars is a screenful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from bench.figures import OURS, Spread, Table, engine_share
from bench.results import IDLE

COLOURS = ("#3b6ea8", "#c98a2b")
# In pixels. The labels stand left of the bars, the values right.
WIDTH, LABELS, VALUES, BAR, GAP, HEAD, FOOT = 900, 210, 110, 16, 10, 64, 12
FONT, INK = "13px sans-serif", "#222222"


@dataclass(frozen=True)
class Bar:
    """One bar: where it begins and ends, its series, what stands behind it, the ends of the rounds if any."""

    begin: float
    end: float
    series: int
    text: str = ""
    ends: tuple[float, float] | None = None


Row = tuple[str, Sequence[Sequence[Bar]]]
"""A label and its lines of bars."""


def phases(path: Path, title: str, table: Table, names: Sequence[str]) -> None:
    """Draw one bar for each program and phase: the median in seconds, and a line between the ends."""
    tools = list(dict.fromkeys(tool for phase in names for tool in table[phase]))
    rows: list[Row] = []
    for tool in tools:
        cells = [table[phase].get(tool) for phase in names]
        lines = [
            [_bar(cell.figures["wall_s"], number)] if cell and cell.figures else []
            for number, cell in enumerate(cells)
        ]
        rows.append((tool, lines))
    _draw(path, f"{title}: seconds, less is better", names, rows)


def split(path: Path, title: str, table: Table) -> None:
    """Draw how much of our processor time is the engine's own Python, by phase."""
    rows: list[Row] = []
    for phase, cells in table.items():
        for tool in OURS:
            # The sum of many days would make all others small; idle work has a table of its own.
            if phase == "month" or phase.startswith(IDLE) or tool not in cells or not cells[tool].figures:
                continue
            own, others = engine_share(cells[tool])
            bars = [Bar(0.0, own, 0), Bar(own, own + others, 1, f"{own:.2f} + {others:.2f}")]
            rows.append((f"{phase}, {tool.removeprefix('flashback-')}", [bars]))
    _draw(path, f"{title}: seconds", ("the engine's Python", "rsync, ssh and other programs"), rows)


def _bar(value: Spread, series: int) -> Bar:
    return Bar(0.0, value.median, series, f"{value.median:.2f}", (value.least, value.most))


def _draw(path: Path, title: str, series: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the picture: title, legend, rows from the top."""
    bars = [bar for _, lines in rows for line in lines for bar in line]
    longest = max((max(bar.end, bar.ends[1] if bar.ends else 0.0) for bar in bars), default=0.0) or 1.0
    scale = (WIDTH - LABELS - VALUES) / longest
    height = HEAD + FOOT + sum(len(lines) * BAR + GAP for _, lines in rows)
    root = Xml.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", role="img")
    Xml.SubElement(root, "title").text = title
    # A ground of its own: the page around may be dark.
    _rectangle(root, (0, 0, WIDTH, height), "#ffffff")
    _text(root, WIDTH / 2, 22, title, "middle")
    for number, name in enumerate(series):
        _rectangle(root, (LABELS + number * 240, 36, 12, 12), COLOURS[number])
        _text(root, LABELS + number * 240 + 18, 47, name)
    top = HEAD
    for label, lines in rows:
        _text(root, LABELS - 10, top + len(lines) * BAR / 2 + 4, label, "end")
        for line in lines:
            _line(root, line, top, scale)
            top += BAR
        top += GAP
    Xml.indent(root)
    path.write_bytes(Xml.tostring(root) + b"\n")


def _line(root: Xml.Element, line: Sequence[Bar], top: float, scale: float) -> None:
    for bar in line:
        box = (LABELS + bar.begin * scale, top + 1, (bar.end - bar.begin) * scale, BAR - 2)
        _rectangle(root, box, COLOURS[bar.series])
        behind = bar.end
        if bar.ends:
            least, most = bar.ends
            _rectangle(root, (LABELS + least * scale, top + BAR / 2, (most - least) * scale, 1), INK)
            behind = max(behind, most)
        _text(root, LABELS + behind * scale + 6, top + BAR - 4, bar.text)


def _rectangle(root: Xml.Element, box: tuple[float, float, float, float], colour: str) -> None:
    """Add a rectangle: left, top, width, height."""
    numbers = zip(("x", "y", "width", "height"), box, strict=True)
    Xml.SubElement(root, "rect", {name: f"{number:.1f}" for name, number in numbers}, fill=colour)


def _text(root: Xml.Element, x: float, y: float, words: str, anchor: str = "start") -> None:
    if words:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
        Xml.SubElement(root, "text", place, style=f"font: {FONT}", fill=INK).text = words
