"""What people see: tables and a bar on a real terminal, plain lines everywhere else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flashback.cli import console

from .rig import CLI, Rig, until

SHOW_CURSOR = "\033[?25h"
LOOKING = ("status", "queue", "history", "snapshots", "retention")


def shown(text: str) -> str:
    """Return text without what colours it."""
    return re.sub(r"\033\[[\d;]*m", "", text)


def slow(rig: Rig) -> None:
    rig.configure("{bandwidth_limit: 500K}")
    for number in range(40):
        (rig.source / f"{number:03}").write_bytes(os.urandom(50_000))


# --- plain --------------------------------------------------------------------------------------------------


def test_the_plain_lines_are_what_scripts_know(rig: Rig) -> None:
    (rig.source / "a").write_text("12345")
    snapshot = rig.back_up()
    said = {each: rig.call(each).stdout.splitlines() for each in LOOKING}
    taken = f"{snapshot.name[:13]}:{snapshot.name[13:15]}:{snapshot.name[15:]}"
    engine, disk, blank, head, job, problem = said["status"]
    assert re.fullmatch(rf"engine  DOWN since {taken[:4]}\S+Z", engine)
    assert re.fullmatch(rf"disk    {rig.disk}  \d+\.\d GB free of \d+\.\d GB", disk)
    assert (blank, problem) == ("", "! the engine is stopped")
    assert head == "JOB                STATE       LAST SNAPSHOT                  AGE  COUNT"
    assert re.fullmatch(rf"laptop/home/daily  \w+ +{taken}       0:00:\d\d  1", job)
    head, job = said["queue"]
    assert re.fullmatch(r"      INDEX             LAST BACKUP      +AGE/CYCLE   STATUS", head)
    assert re.fullmatch(r"laptop-home-daily   \d{4}-\d\d-\d\d \d\d:\d\d:\d\d   [ \d]+/86400   .+", job)
    assert re.fullmatch(
        r"\S+ \S+  laptop/home/daily  SUCCEEDED  0:00:\d\d  \d files, \d+ bytes received", said["history"][0]
    )
    assert said["snapshots"] == [f"laptop/home/daily  {snapshot.name}  {snapshot}"]
    assert said["retention"] == [
        f"laptop/home/daily  {snapshot.name}  the newest of all; number 1 of the newest 3"
    ]
    why = rig.call("why", "laptop", "--no-probe").stdout.splitlines()
    assert why[0] == "laptop/home/daily does not run: it is not due"
    assert why[1].startswith("  - its newest snapshot is ")


def test_the_file_of_2014_is_what_queue_prints_without_a_terminal(rig: Rig) -> None:
    rig.call("status")
    daemon = rig.start("run")
    until(lambda: (rig.run_dir / "queue").exists() and "STATUS" in (rig.run_dir / "queue").read_text())
    until(lambda: "IDLE" in rig.call("status").stdout)

    def without_ages(text: str) -> list[str]:
        return [re.sub(r"\d+ ?/", "AGE/", line) for line in text.splitlines()]

    written = (rig.run_dir / "queue").read_text().split("\n\n", 1)[1]
    assert without_ages(rig.call("queue").stdout) == without_ages(written)
    daemon.terminate()


def test_the_library_is_loaded_on_a_terminal_only(rig: Rig) -> None:
    rig.back_up()
    traced = [sys.executable, "-X", "importtime", *CLI[1:], "-c", str(rig.config), "snapshots"]
    done = subprocess.run(traced, capture_output=True, text=True, check=True)
    assert "flashback" in done.stderr
    assert "tabulate" not in done.stderr
    terminal = rig.look("snapshots", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert re.search(r"\| +tabulate$", terminal.written, re.MULTILINE)


def test_without_the_library_a_terminal_gets_the_plain_lines(rig: Rig, tmp_path: Path) -> None:
    rig.back_up()
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent/tabulate.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join(filter(None, (f"{tmp_path}/absent", os.environ.get("PYTHONPATH", ""))))
    terminal = rig.look("retention", env={"PYTHONPATH": path})
    assert terminal.written == rig.call("retention").stdout


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_tables_fit_the_terminal_and_say_what_the_plain_lines_say(rig: Rig, columns: int) -> None:
    (rig.source / "a").write_text("12345")
    snapshot = rig.back_up()
    note = "the wedding of Anna and Bert, all the photographs, before they were sorted"
    rig.call("keep", f"laptop/home/daily/{snapshot.name}", note)
    for words, wanted in (
        (["status"], ["laptop/home/daily", "COUNT", "engine is stopped"]),
        (["queue"], ["laptop-home-daily", "LAST BACKUP", "AGE/CYCLE", "/86400"]),
        (["history", "laptop"], ["laptop/home/daily", "SUCCEEDED", "received"]),
        (["snapshots"], [snapshot.name, "AGE", "/JOB/SNAPSHOT"]),
        (["retention"], [snapshot.name, "KEPT BECAUSE", *note.split()]),
        (["why", "laptop", "--no-probe"], ["laptop/home/daily", "it is not due", "- its newest snapshot"]),
    ):
        terminal = rig.look(*words, columns=columns)
        lines = shown(terminal.written).splitlines()
        for each in wanted:
            assert any(each in line for line in lines), (each, terminal.written)
        for line in lines:
            assert len(line) <= columns or " " not in line.strip().partition("  ")[2], (words, line)


def test_a_table_too_wide_becomes_a_few_lines_for_each_row(rig: Rig) -> None:
    rig.back_up()
    lines = shown(rig.look("status", columns=40).written).splitlines()
    first = lines.index("laptop/home/daily")
    assert [line.split()[0] for line in lines[first + 1 : first + 5]] == ["STATE", "LAST", "AGE", "COUNT"]
    assert "JOB                STATE" in rig.look("status", columns=80).written


def test_a_terminal_is_told_that_there_is_nothing(rig: Rig) -> None:
    assert rig.look("snapshots").written == "There is no snapshot yet.\n"
    assert rig.look("retention").written == "There is no snapshot yet.\n"
    assert rig.look("history").written == "No backup has run yet.\n"
    assert rig.look("damage").written == "No stored file is known to be damaged.\n"
    assert [rig.call(each).stdout for each in ("snapshots", "retention", "history")] == ["", "", ""]


def test_damage_is_a_table_of_files(rig: Rig) -> None:
    (rig.source / "a").write_text("1" * 1000)
    snapshot = rig.back_up()
    rig.call("chores")
    (rig.source / "a").unlink()
    status = (snapshot / "a").stat()
    (snapshot / "a").write_text("2" * 1000)
    os.utime(snapshot / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    rig.call("verify", "--all")
    file = f"laptop/home/daily/{snapshot.name}/a"
    for columns in (40, 160):
        terminal = rig.look("damage", columns=columns)
        assert terminal.code == 1
        assert all(each in terminal.written for each in (file, "DAMAGE", "rot", "SNAPSHOTS", "kept as"))
    plain = rig.call("damage").stdout.splitlines()
    assert plain[0].startswith(f"Damaged (rot): {file}, in 1 snapshots.")
    assert plain[1].startswith("  the bad file is kept as ")


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_who_wants_them_and_say_nothing_alone(
    rig: Rig, env: dict[str, str], coloured: bool
) -> None:
    rig.back_up()
    text = rig.look("history", env=env).written
    assert ("\033[32mSUCCEEDED" in text) == coloured
    assert ("\033" in text) == coloured
    assert "SUCCEEDED" in shown(text)


def test_a_colour_does_not_run_into_the_next_row(rig: Rig) -> None:
    rig.back_up()
    made = json.loads((rig.run_dir / "status.json").read_text())
    made["jobs"][0]["state"] = "SUCCEEDED"
    made["jobs"][0]["last_run"]["duration_seconds"] = 200_000
    (rig.run_dir / "status.json").write_text(json.dumps(made))
    wrapped = 0
    for columns in range(70, 82, 2):
        coloured = [line for line in rig.look("queue", columns=columns).lines if "\033" in line]
        assert all(line.count("\033[32m") == line.count("\033[0m") == 1 for line in coloured)
        wrapped += len(coloured) > 1
    assert wrapped


def test_amounts_of_bytes_are_written_as_people_do() -> None:
    assert console.amount(999) == "999 B"
    assert console.amount(999_949) == "999.9 kB"
    assert console.amount(999_950) == "1.0 MB"
    assert console.amount(12_345_678) == "12.3 MB"
    assert console.amount(10**16) == "10000.0 TB"


def test_a_note_cannot_steer_the_terminal(rig: Rig) -> None:
    snapshot = rig.back_up()
    rig.call("keep", f"laptop/home/daily/{snapshot.name}", "\033]0;owned\007 \033[2J")
    written = rig.look("retention", columns=150).written
    assert "note: ?]0;owned? ?[2J" in written
    assert "\033" not in written


# --- the bar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 100])
@pytest.mark.parametrize("with_daemon", [False, True])
def test_a_bar_shows_how_far_a_backup_is(rig: Rig, columns: int, with_daemon: bool) -> None:
    slow(rig)
    if with_daemon:
        rig.call("pause", "laptop")
        daemon = rig.start("run")
        until((rig.run_dir / "control").exists)
    with rig.terminal("backup", "laptop", "--wait", columns=columns) as terminal:
        text = terminal.read()
        assert terminal.code == 0, text
    drawn = [
        shown(line).replace("\033[?25l", "").rstrip() for line in re.findall(r"\r([^\r\n]*\d%[^\r\n]*)", text)
    ]
    assert drawn, text
    assert max(map(len, drawn)) <= columns
    assert any("#" in line for line in drawn)
    if columns >= 100:
        assert any(
            re.fullmatch(
                r"laptop/home/daily  \[#+-+\] +\d+%  \d+ files  [\d.]+ [kM]?B  \S+ [kM]?B/s  \d+ s left", line
            )
            for line in drawn
        ), drawn
    last = text[text.rindex(SHOW_CURSOR) :]
    assert "laptop/home/daily: SUCCEEDED" in last
    assert "%" not in last
    if with_daemon:
        daemon.terminate()


@pytest.mark.parametrize("words", [["backup", "laptop"], ["pass"]])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines_only(rig: Rig, words: list[str]) -> None:
    slow(rig)
    terminal = rig.look(*words, columns=200, env={"TERM": "dumb"})
    assert re.fullmatch(r"laptop/home/daily: SUCCEEDED [^\r\033]*\n", terminal.written)


def test_without_a_terminal_there_is_no_bar(rig: Rig) -> None:
    slow(rig)
    done = rig.call("backup", "laptop")
    assert re.fullmatch(
        r"laptop/home/daily: SUCCEEDED \S+, \d+ files, \d+ bytes received in \d+ s\n", done.stdout
    )
    assert done.stderr == ""


def test_who_turns_away_from_the_daemon_is_told_that_it_goes_on(rig: Rig) -> None:
    slow(rig)
    rig.call("pause", "laptop")
    daemon = rig.start("run")
    until((rig.run_dir / "control").exists)
    with rig.terminal("backup", "laptop", "--wait") as terminal:
        terminal.read("%")
        os.write(terminal.master, b"\x03")
        terminal.read()
        assert terminal.code == 130
    assert terminal.written.endswith("The engine goes on with it; `flashback stop` stops it\n")
    assert SHOW_CURSOR in terminal.written
    until(lambda: len(rig.complete()) == 1, 60)
    daemon.terminate()


def test_a_terminal_that_closes_ends_a_backup_in_an_orderly_way(rig: Rig) -> None:
    slow(rig)
    with rig.terminal("backup", "laptop") as terminal:
        terminal.read("%")
        os.close(terminal.master)
        terminal.child.wait(30)
    assert "the engine is stopped" in rig.call("status").stdout
    assert "the engine was stopped" in rig.call("history").stdout
    assert rig.rsyncs() == []
    with rig.terminal("backup", "laptop") as terminal:
        terminal.read("%")
        os.write(terminal.master, b"\x03")
        terminal.read()
        assert terminal.code == 75
    assert SHOW_CURSOR in terminal.written
    assert rig.call("backup", "laptop").returncode == 0


def test_nohup_outlives_the_terminal(rig: Rig) -> None:
    slow(rig)
    child = subprocess.Popen(
        ["nohup", *CLI, "-c", str(rig.config), "backup", "laptop"], stdout=subprocess.DEVNULL
    )
    until(lambda: bool(rig.rsyncs()))
    time.sleep(0.5)
    child.send_signal(signal.SIGHUP)
    assert child.wait(60) == 0
    assert len(rig.complete()) == 1


# --- wrong input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "flashback: No such command 'nosuch'. `flashback --help` explains\n"),
        (
            ["backup"],
            "flashback: Missing argument 'HOST[/VOLUME[/LABEL]]'. `flashback backup --help` explains\n",
        ),
        (
            ["history", "nobody"],
            "flashback: No job is called nobody. Known are laptop/home/daily\n",
        ),
        (
            ["keep", "laptop/home/daily/yesterday"],
            "flashback: laptop/home/daily/yesterday names no snapshot. "
            "Wanted is HOST/VOLUME/LABEL/2026-11-23T030000Z\n",
        ),
    ],
)
def test_wrong_input_is_one_line_that_helps(rig: Rig, words: list[str], said: str) -> None:
    done = rig.call(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_configuration_that_is_absent_or_wrong_is_one_line_too(rig: Rig) -> None:
    rig.config.write_text("data_dir: here\nnonsense: 1\nmore: 2\n")
    done = rig.call("status")
    assert done.returncode == 2
    assert re.fullmatch(
        rf"flashback: {rig.config}:1: .*; this is the first of 3 mistakes. `flashback config check` .*\n",
        done.stderr,
    )
    rig.config.unlink()
    for words in (("status",), ("config", "check")):
        done = rig.call(*words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"flashback: There is no configuration at {rig.config}. Write one")


def test_a_warning_is_not_said_twice(rig: Rig) -> None:
    (rig.top / "known_hosts").write_text("")
    done = rig.call("backup", "laptop")
    assert done.returncode == 75
    assert done.stdout.startswith("laptop/home/daily: NOT_FOUND (no host key of laptop is pinned")
    assert done.stderr == ""


def test_the_history_of_a_host_or_a_volume_is_that_of_its_jobs(rig: Rig) -> None:
    rig.back_up()
    everything = rig.call("history").stdout
    for target in ("laptop", "laptop/home", "laptop/home/daily", "laptop/"):
        assert rig.call("history", target).stdout == everything != ""
    assert rig.call("history", "lap").returncode == 2
