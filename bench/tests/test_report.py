"""From raw results to tables: medians, ratios, failures, and the pages that say them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.figures import ahead, cell, engine_share, ours, ratio, tables
from bench.measure import Figures
from bench.results import Key, Results, records

MACHINE = {
    "machine": "a machine", "memory": 8 << 30, "commit": "abc", "versions": {"rsync": "3"}, "name": "small",
    "files": 10, "bytes": 2 << 20, "image": 1 << 20, "many": 5, "days": 2, "seed": 1, "keep": 7,
}  # fmt: skip


def run(tool: str, wall: float, number: int = 1, phase: str = "day", **more: Any) -> dict[str, Any]:
    figures = {
        "wall_s": wall, "server_cpu_s": wall / 2, "client_cpu_s": 0.1, "peak_anonymous": 10_000_000,
        "cpu_by_program_s": {}, "peak_by_program": {}, "wire_from_client": 1000, "wire_to_client": 10,
        "disk_reads": 1, "disk_read": 512, "disk_writes": 2, "disk_written": 1024, "growth": 4096,
    }  # fmt: skip
    key = {"size": "small", "fs": "ext4", "round": number, "phase": phase, "day": 1, "tool": tool}
    return {"kind": "run", **key, "ok": True, **figures, **more}


def test_the_middle_of_the_rounds_and_their_ends_are_told() -> None:
    found = cell([run("x", wall, number) for number, wall in enumerate((5.0, 1.0, 2.0))])
    assert (found.figures["wall_s"].median, found.figures["wall_s"].least, found.figures["wall_s"].most) == (
        2,
        1,
        5,
    )
    assert found.rounds == 3


def test_the_days_of_a_month_add_up_but_its_memory_does_not() -> None:
    days = [run("x", 2.0, phase="month", day=day, peak_anonymous=day) for day in range(3, 6)]
    found = cell(days)
    assert found.figures["wall_s"].median == 6
    assert found.figures["peak_anonymous"].median == 5
    assert found.rounds == 1


def test_a_round_with_a_failure_has_no_figures_but_words() -> None:
    found = cell([run("x", 2.0), run("x", 0.1, 2, ok=False, said="it broke")])
    assert found.rounds == 1
    assert found.figures["wall_s"].median == 2
    assert found.failures == ("it broke",)


def test_ratios_are_against_our_faster_way_when_it_was_measured() -> None:
    row = tables([run("flashback-full", 4.0), run("rsync-mirror", 2.0)])["ext4"]["day"]
    assert ours(row) == "flashback-full"
    assert ratio(row, "rsync-mirror", "wall_s") == 0.5
    row = tables([run("flashback-full", 4.0), run("flashback-manifest", 1.0), run("rsync-mirror", 2.0)])[
        "ext4"
    ]["day"]
    assert ours(row) == "flashback-manifest"
    assert ratio(row, "rsync-mirror", "wall_s") == 2


def test_who_is_ahead_is_told_best_first_and_a_twentieth_is_no_lead() -> None:
    runs = [run("flashback-full", 4.0), run("borg", 3.9), run("restic", 2.0), run("rsync-mirror", 1.0)]
    assert ahead(tables(runs)["ext4"]["day"], "wall_s") == ["rsync-mirror", "restic"]


def test_nothing_is_compared_with_a_failure_of_ours() -> None:
    row = tables([run("flashback-full", 0.0, ok=False, said="no"), run("borg", 1.0)])["ext4"]["day"]
    assert ours(row) is None
    assert ahead(row, "wall_s") == []


def test_the_engines_python_is_told_apart_from_the_programs_that_it_calls() -> None:
    spent = {"python": 0.5, "rsync": 1.0, "ssh": 0.25, "unseen": 0.25}
    assert engine_share(cell([run("flashback-full", 1.0, cpu_by_program_s=spent)])) == (0.5, 1.5)


def written(tmp_path: Path, runs: list[dict[str, Any]]) -> Path:
    path = tmp_path / "small.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [{"kind": "machine", **MACHINE}, *runs]))
    return path


def test_the_pages_have_every_program_and_no_place_left_open(tmp_path: Path) -> None:
    runs = [run("flashback-full", 4.0), run("borg", 3.0), run("restic", 0.0, ok=False, said="no\nroom")]
    runs += [
        run("borg", 2.0, phase="restore-all", differs={"times": 3}),
        run("flashback-full", 1.0, phase="first"),
    ]
    report.write(written(tmp_path, runs), tmp_path / "docs")
    page = (tmp_path / "docs/performance.md").read_text()
    assert "{{" not in page
    assert "| flashback-full | **4.00** |" in page
    assert "- restic, day, ext4: `no room`" in page
    assert "| borg | differs in times (3) |" in page
    assert "| ext4 | day | time | 4 s | borg 3 |" in page
    assert "| borg | 3.00 (3.00-3.00) | 0.75 |" in (tmp_path / "docs/performance/ext4.md").read_text()
    for name in ("ext4-first.svg", "ext4-split.svg"):
        assert f"performance/{name}" in page
        assert (tmp_path / "docs/performance" / name).exists()
    assert ">1.00</text>" in (tmp_path / "docs/performance/ext4-first.svg").read_text()


def test_idle_work_stands_apart_and_is_compared_with_nobody(tmp_path: Path) -> None:
    runs = [run("flashback-full", 4.0), run("flashback-full", 7.0, phase="idle-day"), run("borg", 5.0)]
    report.write(written(tmp_path, runs), tmp_path / "docs")
    page = (tmp_path / "docs/performance.md").read_text()
    assert "| ext4 | day | flashback-full | 7.00 | 3.50 |" in page
    assert "idle-day" not in page
    assert "idle-day" not in (tmp_path / "docs/performance/ext4-split.svg").read_text()


def test_the_same_results_make_the_same_files(tmp_path: Path) -> None:
    source = written(tmp_path, [run("flashback-full", 4.0, phase="first"), run("borg", 3.0, phase="first")])
    first = [path.read_bytes() for path in report.write(source, tmp_path / "one")]
    assert first == [path.read_bytes() for path in report.write(source, tmp_path / "other")]


def test_what_is_finished_is_known_again_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path, key = tmp_path / "small.jsonl", Key("small", "ext4", 1, "day", 1, "borg")
    Results(path).note(key, Figures(exit=1, said="broken"))
    with path.open("a") as file:
        file.write('{"kind": "run", "size": "sm')
    again = Results(path)
    assert again.finished == {key}
    again.note(replace(key, day=2), Figures())
    assert [record["day"] for record in records(path)] == [1, 2]


@pytest.mark.parametrize("name", ["day", "first"])
def test_charts_name_only_phases_that_exist(name: str) -> None:
    from bench.run import PHASES

    assert set(next(phases for chart, _, phases in report.CHARTS if chart == name)) <= set(PHASES)
