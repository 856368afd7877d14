"""Write docs/performance.md, a page for each file system, and the charts, from the raw results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import charts
from bench.figures import OURS, Cell, Spread, Table, ahead, engine_share, ours, ratio, tables
from bench.results import IDLE, records
from bench.tools import ALL

WORDS = Path(__file__).with_name("words.md")
HEAD = (
    "program", "seconds", "times ours", "CPU server", "CPU client", "peak MB", "wire MB",
    "reads", "MB read", "writes", "MB written", "grows MB",
)  # fmt: skip
# Measure, its name, its unit as a divisor, the unit.
AHEAD = (
    ("wall_s", "time", 1.0, "s"),
    ("server_cpu_s", "CPU of the server", 1.0, "s"),
    ("peak_anonymous", "memory", 1e6, "MB"),
    ("wire", "wire", 1e6, "MB"),
    ("disk_reads", "reads", 1.0, ""),
    ("disk_writes", "writes", 1.0, ""),
    ("growth", "growth", 1e6, "MB"),
)
CHARTS = (
    ("day", "A day with the memory of a plug", ("nothing-128MB", "day-128MB")),
    ("first", "First backup and full restore", ("first", "restore-all")),
)


def write(results: Path, docs: Path) -> list[Path]:
    """Write all pages and charts of a results file below `docs`, return which."""
    found = list(records(results))
    machines = [record for record in found if record["kind"] == "machine"]
    made = tables(record for record in found if record["kind"] == "run")
    folder = docs / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    written = [docs / "performance.md"]
    written[0].write_text(page(machines, made, results.name), encoding="utf-8")
    for fs, table in made.items():
        written.append(folder / f"{fs}.md")
        written[-1].write_text(details(fs, table), encoding="utf-8")
        written += draw(folder, fs, table)
    return written


def draw(folder: Path, fs: str, table: Table) -> list[Path]:
    """Draw the charts of one file system, return their files."""
    made = []
    for name, title, phases in CHARTS:
        there = [phase for phase in phases if phase in table]
        if there:
            made.append(folder / f"{fs}-{name}.svg")
            charts.phases(made[-1], f"{title}, {fs}", table, there)
    made.append(folder / f"{fs}-split.svg")
    charts.split(made[-1], f"Where our processor time goes, {fs}", table)
    return made


def page(machines: list[dict[str, Any]], made: dict[str, Table], source: str) -> str:
    """Return the main page: the words with the figures put into them."""
    newest = machines[-1]
    parts = {
        "source": source,
        "size": newest["name"],
        "files": f"{newest['files']:,}",
        "megabytes": str(newest["bytes"] >> 20),
        "image": str(newest["image"] >> 20),
        "many": f"{newest['many']:,}",
        "days": str(newest["days"]),
        "keep": str(newest["keep"]),
        "seed": str(newest["seed"]),
        "machine": "; ".join(dict.fromkeys(each["machine"] for each in machines)),
        "memory": f"{newest['memory'] / 1e9:.0f}",
        "commits": ", ".join(dict.fromkeys(each["commit"] for each in machines)),
        "versions": ", ".join(f"{name} {version}" for name, version in newest["versions"].items()),
        "programs": "\n".join(f"| {name} | {tool.how} |" for name, tool in ALL.items()),
        "summaries": "\n".join(summary(fs, table) for fs, table in made.items()),
        "idle": "\n".join(idle(made)),
        "restored": "\n".join(restored(made)),
        "split": "\n".join(split(made)),
        "ahead": "\n".join(
            f"| {fs} {line}" for fs, table in made.items() for line in overtaken(table, AHEAD[:1])
        ),
        "failed": "\n".join(failed(made)) or "None.",
    }
    text = WORDS.read_text(encoding="utf-8")
    for name, value in parts.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def summary(fs: str, table: Table) -> str:
    """Return one file system's table of times, and its charts."""
    phases = [phase for phase in table if not phase.startswith(IDLE)]
    tools = [name for name in ALL if any(name in row for row in table.values())]
    rounds = max(cell.rounds for row in table.values() for cell in row.values())
    of = f"median of {rounds} rounds" if rounds > 1 else "one round"
    lines = [f"### {fs}", "", f"Seconds, {of} ([all figures](performance/{fs}.md)).", ""]
    lines += [f"| program | {' | '.join(phases)} |", f"|---|{'---:|' * len(phases)}"]
    for tool in tools:
        cells = [_short(table[phase], tool) for phase in phases]
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    lines.append("")
    for name, title, wanted in CHARTS:
        if set(wanted) & set(table):
            lines.append(f"![{title}](performance/{fs}-{name}.svg)")
    return "\n".join([*lines, f"![Our processor time](performance/{fs}-split.svg)", ""])


def _short(row: dict[str, Cell], tool: str) -> str:
    if tool not in row:
        return "-"
    if not row[tool].figures:
        return "failed"
    text = f"{row[tool].figures['wall_s'].median:.2f}"
    return f"**{text}**" if tool == ours(row) else text


def details(fs: str, table: Table) -> str:
    """Return the page with all figures of one file system."""
    explained = "[what the columns mean](../performance.md#how-it-is-measured)"
    lines = [f"# All figures on {fs}", "", f"Made by `python -m bench report`; {explained}.", ""]
    for phase, row in table.items():
        lines += [f"## {phase}", "", f"| {' | '.join(HEAD)} |", f"|---|{'---:|' * (len(HEAD) - 1)}"]
        lines += [_line(row, tool) for tool in ALL if tool in row]
        lines.append("")
    lines += [
        "## Where another program is better",
        "",
        "| phase | what | ours | better |",
        "|---|---|---:|---|",
    ]
    lines += [*overtaken(table, AHEAD), ""]
    return "\n".join(lines)


def _line(row: dict[str, Cell], tool: str) -> str:
    found = row[tool].figures
    if not found:
        return f"| {tool} | failed |{' |' * (len(HEAD) - 2)}"
    times = ratio(row, tool, "wall_s")
    cells = [
        _spread(found["wall_s"]),
        "-" if times is None else f"{times:.2f}",
        *(f"{found[name].median:.2f}" for name in ("server_cpu_s", "client_cpu_s")),
        *(f"{found[name].median / 1e6:.1f}" for name in ("peak_anonymous", "wire")),
    ]
    for count, amount in (("disk_reads", "disk_read"), ("disk_writes", "disk_written")):
        cells += [f"{found[count].median:,.0f}", f"{found[amount].median / 1e6:.1f}"]
    cells.append(f"{found['growth'].median / 1e6:.1f}")
    return f"| {tool} | {' | '.join(cells)} |"


def _spread(value: Spread) -> str:
    return f"{value.median:.2f} ({value.least:.2f}-{value.most:.2f})"


def idle(made: dict[str, Table]) -> Iterator[str]:
    """Yield a line for each phase about what ours did by itself after the backup."""
    for fs, table in made.items():
        for phase, row in table.items():
            for tool, cell in row.items():
                if not phase.startswith(IDLE) or not cell.figures:
                    continue
                names = ("wall_s", "server_cpu_s"), ("peak_anonymous", "disk_read", "disk_written")
                seconds = (f"{cell.figures[name].median:.2f}" for name in names[0])
                amounts = (f"{cell.figures[name].median / 1e6:.1f}" for name in names[1])
                after = phase.removeprefix(IDLE)
                yield f"| {fs} | {after} | {tool} | {' | '.join((*seconds, *amounts))} |"


def restored(made: dict[str, Table]) -> Iterator[str]:
    """Yield a line for each program about what it gave back."""
    for tool in ALL:
        found = {
            fs: table["restore-all"][tool].differs
            for fs, table in made.items()
            if tool in table.get("restore-all", {})
        }
        told = dict.fromkeys(_difference(differs) for differs in found.values() if differs is not None)
        if told:
            yield f"| {tool} | {'; '.join(told)} |"


def _difference(differs: dict[str, int]) -> str:
    if not differs:
        return "everything, to the nanosecond"
    return "differs in " + ", ".join(f"{what} ({count:,})" for what, count in differs.items())


def split(made: dict[str, Table]) -> Iterator[str]:
    """Yield a line for each phase about who spent our processor time."""
    for fs, table in made.items():
        for phase, row in table.items():
            for tool in OURS:
                if phase.startswith(IDLE) or tool not in row or not row[tool].figures:
                    continue
                own, others = engine_share(row[tool])
                programs = row[tool].programs
                named = sum(programs.get(name, 0.0) for name in ("rsync", "ssh"))
                cells = (own, programs.get("rsync", 0.0), programs.get("ssh", 0.0), others - named)
                share = f"{100 * own / (own + others):.0f} %" if own + others else "-"
                figures = " | ".join(f"{each:.2f}" for each in cells)
                peak = row[tool].engine_peak / 1e6
                yield f"| {fs} | {phase} | {tool} | {figures} | {share} | {peak:.1f} |"


def overtaken(table: Table, measures: Sequence[tuple[str, str, float, str]]) -> Iterator[str]:
    """Yield a line for each figure in which another program is clearly ahead of ours."""
    for phase, row in table.items():
        # What only ours does has nobody beside it.
        base = None if phase.startswith(IDLE) else ours(row)
        for measure, name, unit, word in measures:
            better = ahead(row, measure)
            if base is None or not better:
                continue
            values = {tool: row[tool].figures[measure].median / unit for tool in (base, *better)}
            others = ", ".join(f"{tool} {values[tool]:.4g}" for tool in better)
            yield f"| {phase} | {name} | {values[base]:.4g} {word} | {others} |"


def failed(made: dict[str, Table]) -> Iterator[str]:
    """Yield a line for each program that could not do something, with its words."""
    for fs, table in made.items():
        for phase, row in table.items():
            for tool, found in row.items():
                for words in found.failures:
                    said = " ".join(words.split()).replace("`", "'")[-300:] or "ended without a word"
                    yield f"- {tool}, {phase}, {fs}: `{said}`"
