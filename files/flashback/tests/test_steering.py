"""A person's hand on the engine: run now, stop, pause, why, hooks, several jobs at a time."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from .rig import Rig, until


def document(rig: Rig) -> dict[str, Any]:
    made = json.loads((rig.run_dir / "status.json").read_text())
    assert isinstance(made, dict)
    return made


def slow(rig: Rig, settings: str = "{period: 1d, keep: 3, bandwidth_limit: 1M}") -> None:
    """Make a transfer that takes some five seconds."""
    rig.configure(settings)
    numbers = random.Random(2)
    for number in range(50):
        (rig.source / f"{number:03}").write_bytes(numbers.randbytes(100_000))


def test_a_running_backup_is_stopped_kept_and_rests(rig: Rig) -> None:
    slow(rig)
    daemon = rig.start("run")
    until(lambda: len(list((rig.label / "incoming").glob("0*"))) > 3)
    done = rig.call("stop", "laptop", "--for", "2h")
    assert done.returncode == 0, done.stderr
    assert "laptop/home/daily is paused until" in done.stdout
    until(lambda: document(rig)["engine"]["state"] == "IDLE")
    assert rig.rsyncs() == []
    assert rig.complete() == []
    assert list((rig.label / "incoming").glob("0*"))
    assert document(rig)["jobs"][0]["state"] == "READY"
    assert "stopped by hand" in document(rig)["jobs"][0]["reason"]
    daemon.terminate()
    daemon.wait(30)
    assert "paused until" in rig.call("why", "laptop").stdout
    assert rig.call("pass").returncode == 0
    assert rig.complete() == []
    assert "goes on" in rig.call("resume", "laptop/home/daily").stdout
    assert rig.call("pass").returncode == 0
    assert len(rig.complete()) == 1


def test_what_stop_and_pause_refuse(rig: Rig) -> None:
    assert rig.call("stop").returncode == 75
    assert "No job is called nobody" in rig.call("pause", "nobody").stderr
    assert "is not a duration" in rig.call("pause", "--for", "soon").stderr
    assert "too long" in rig.call("pause", "--for", "60d").stderr
    assert "was not paused" in rig.call("resume").stdout


def test_everything_can_be_paused_and_a_named_backup_still_runs(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.call("pause", "--for", "1h")
    assert rig.call("pass").returncode == 0
    assert rig.complete() == []
    rig.back_up()


def test_why_names_the_reason(rig: Rig) -> None:
    done = rig.call("why", "laptop")
    assert done.returncode == 0
    assert "the engine is not running" in done.stdout
    rig.back_up()
    time.sleep(1.1)
    done = rig.call("why", "laptop")
    assert done.returncode == 75
    assert "laptop/home/daily does not run: it is not due" in done.stdout
    assert "due in 23 h 59 min" in done.stdout
    (rig.top / "known_hosts").write_text("")
    rig.configure("{period: 1s}")
    time.sleep(1.1)
    (answer,) = json.loads(rig.call("why", "laptop", "--json").stdout)
    assert not answer["runs"]
    assert "no host key" in answer["verdict"]
    (rig.disk / ".flashback/id").unlink()
    assert "does not run: the backup disk is not there" in rig.call("why", "laptop").stdout


def test_the_commands_before_and_after_know_what_happened(rig: Rig) -> None:
    hook = rig.top / "hook"
    hook.write_text(
        '#!/bin/sh\necho "$1 $FLASHBACK_WHEN $FLASHBACK_JOB $FLASHBACK_OUTCOME $FLASHBACK_SNAPSHOT"'
        f" >> {rig.top}/said\n"
    )
    hook.chmod(0o755)
    (rig.source / "a").write_text("1")
    rig.configure(f'{{before: [{hook}, "with blank"], after: [{hook}, "; rm"]}}')
    snapshot = rig.back_up()
    assert (rig.top / "said").read_text().splitlines() == [
        "with blank before laptop/home/daily  ",
        f"; rm after laptop/home/daily SUCCEEDED {snapshot.name}",
    ]


@pytest.mark.parametrize(
    ("status", "outcome", "said"), [(1, 1, "ended with status 1: no"), (75, 75, "status 75")]
)
def test_a_command_before_that_fails_means_no_backup(rig: Rig, status: int, outcome: int, said: str) -> None:
    (rig.top / "hook").write_text(f"#!/bin/sh\necho no >&2\nexit {status}\n")
    (rig.top / "hook").chmod(0o755)
    rig.configure(f"{{before: [{rig.top}/hook]}}")
    done = rig.call("backup", "laptop")
    assert done.returncode == outcome
    assert said in done.stdout
    assert rig.complete() == []


def test_a_command_after_that_fails_is_a_failure_although_the_snapshot_is_good(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    rig.configure("{after: [/bin/false]}")
    done = rig.call("backup", "laptop")
    assert done.returncode == 1
    assert "The command after laptop/home/daily, /bin/false, ended with status 1" in done.stdout
    assert len(rig.complete()) == 1
    assert rig.call("status").returncode != 0


def test_two_clients_at_a_time_but_never_two_jobs_of_one(rig: Rig) -> None:
    slow(rig)
    text = rig.config.read_text()
    block = text[text.index("  laptop:") :].replace("home:", "other:")
    text = text.replace("\nhosts:", "\nconcurrency: 2\nhosts:") + block.replace("  laptop:", "  desktop:")
    text = text.replace("daily: {", "hourly: {period: 1h, bandwidth_limit: 1M}, daily: {")
    rig.config.write_text(text)
    hosts = (rig.top / "known_hosts").read_text()
    (rig.top / "known_hosts").write_text(hosts + hosts.replace("laptop", "desktop"))
    child = rig.start("pass")
    seen: set[tuple[str, ...]] = set()
    while child.poll() is None:
        if (rig.run_dir / "status.json").exists():
            seen.add(tuple(sorted(each["host"] for each in document(rig)["running"])))
        time.sleep(0.05)
    assert child.returncode == 0, child.communicate()
    assert ("desktop", "laptop") in seen
    assert not any(len(set(hosts)) < len(hosts) for hosts in seen)
    assert len(list(rig.disk.glob("*/*/*/20*Z"))) == 4


def test_the_history_lists_runs(rig: Rig) -> None:
    rig.back_up()
    (run,) = json.loads(rig.call("history", "--json").stdout)
    assert (run["job"], run["outcome"]) == ("laptop/home/daily", "SUCCEEDED")
    assert "laptop/home/daily  SUCCEEDED" in rig.call("history", "laptop/home/daily").stdout
    assert rig.call("history", "other/home/daily").stdout == ""


def test_each_probe_is_remembered(rig: Rig) -> None:
    rig.back_up()
    assert document(rig)["jobs"][0]["present"] is None or document(rig)["jobs"][0]["present"] is True
    rig.call("pass")
    assert document(rig)["jobs"][0]["present"] is True


def test_a_wrong_machine_is_an_alarm(rig: Rig, tmp_path: Path) -> None:
    rig.back_up()
    (rig.top / "known_hosts").write_text(f"laptop {(rig.top / 'id.pub').read_text()}")
    daemon = rig.start("run")
    until((rig.run_dir / "control").exists)
    rig.call("backup", "laptop", "--wait")
    until(lambda: document(rig)["engine"]["state"] == "IDLE")
    done = rig.call("status")
    assert done.returncode == 1
    assert "shows another host key" in done.stdout
    daemon.terminate()
