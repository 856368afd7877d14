"""Bar charts as SVG, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path

import pygal
from pygal.style import CleanStyle

from bench.figures import OURS, Cell, Table, engine_share

HEIGHT_OF_BAR = 22


def bars(path: Path, title: str, table: Table, phases: list[str], measure: str = "wall_s") -> None:
    """Draw one bar for each program and phase, the medians in seconds."""
    tools = list(dict.fromkeys(tool for phase in phases for tool in table[phase]))
    chart = _chart(title, len(tools) * len(phases))
    # The horizontal chart begins at the bottom.
    chart.x_labels = tools[::-1]
    for phase in phases:
        chart.add(phase, [_value(table[phase].get(tool), measure) for tool in tools][::-1])
    path.write_bytes(chart.render())


def split(path: Path, title: str, table: Table) -> None:
    """Draw how much of our processor time is the engine's own Python, by phase."""
    rows = [
        (f"{phase}, {tool}", engine_share(cells[tool]))
        for phase, cells in table.items()
        # A sum of many days would make all others small.
        if phase != "month"
        for tool in OURS
        if tool in cells and cells[tool].figures
    ][::-1]
    chart = _chart(title, len(rows), pygal.HorizontalStackedBar)
    chart.x_labels = [name for name, _ in rows]
    chart.add("the engine's Python", [round(own, 2) for _, (own, _) in rows])
    chart.add("rsync, ssh and other programs", [round(others, 2) for _, (_, others) in rows])
    path.write_bytes(chart.render())


def _value(cell: Cell | None, measure: str) -> float | None:
    return round(cell.figures[measure].median, 2) if cell and cell.figures else None


def _chart(title: str, count: int, kind: type[pygal.Graph] = pygal.HorizontalBar) -> pygal.Graph:
    return kind(
        title=title,
        style=CleanStyle,
        # No scripts from elsewhere, no random names: the file is a picture, and the same each time.
        js=(),
        no_prefix=True,
        disable_xml_declaration=False,
        print_values=True,
        legend_at_bottom=True,
        width=900,
        height=160 + count * HEIGHT_OF_BAR,
        x_title="seconds, less is better",
    )
