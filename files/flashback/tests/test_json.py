"""Every `--json` is one document that keeps to its schema, in all the forms that it takes."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import pytest
from flashback import manual
from flashback.cli import cli
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from .rig import Rig, until

SCHEMAS = Path(__file__).parent.parent / "src/flashback/schema"
# Which schema describes what a command prints. `find` and `diff` print plain lists of rows.
DESCRIBED = {
    "adopt": "adopt",
    "accept": "held-back",
    "backup": "results",
    "bench-ssh": "bench-ssh",
    "config check": "config-check",
    "damage": "damage",
    "doors": "doors",
    "drill": "drill",
    "excludes test": "excludes",
    "forecast": "forecast",
    "history": "history",
    "keep": "mark",
    "pass": "results",
    "pause": "pause",
    "probe": "probe",
    "queue": "queue",
    "reject": "held-back",
    "resume": "resume",
    "retention": "retention",
    "snapshots": "snapshots",
    "status": "status",
    "stop": "pause",
    "unkeep": "mark",
    "verify": "verify",
    "why": "why",
}


def checked(schema: str, text: str) -> Any:
    """Return the document that the text is, after a look at its schema."""
    resources = [
        (path.name, Resource.from_contents(json.loads(path.read_text()))) for path in SCHEMAS.glob("*.json")
    ]
    registry: Registry[Any] = Registry().with_resources(resources)
    contents = registry.contents(f"{schema}-1.json")
    # A reference without a file means the file that it stands in.
    made = json.loads(text)
    Draft202012Validator({**contents, "$id": f"{schema}-1.json"}, registry=registry).validate(made)
    return made


def said(rig: Rig, *words: str, code: int = 0) -> Any:
    """Return what a command prints as JSON, checked, and that it prints nothing else."""
    done = rig.call(*words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    name = words[0] if words[0] in DESCRIBED else " ".join(words[:2])
    return checked(DESCRIBED[name], done.stdout)


def test_every_schema_is_one_and_every_json_has_one() -> None:
    for path in SCHEMAS.glob("*.json"):
        Draft202012Validator.check_schema(json.loads(path.read_text()))
    offering = {
        name.removeprefix("flashback ")
        for name, command in manual.commands(cli)
        if any("--json" in option.opts for option in command.params if isinstance(option, click.Option))
    }
    assert offering - {"find", "diff", "restore", "disk copy"} == set(DESCRIBED)
    assert {path.name for path in SCHEMAS.glob("*.json")} >= {f"{name}-1.json" for name in DESCRIBED.values()}


def test_what_a_backup_says_for_programs(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    (due,) = said(rig, "pass", "--dry-run")
    assert due == {"job": "laptop/home/daily", "state": "READY", "reason": "dry run", "run": None}
    (made,) = said(rig, "backup", "laptop")
    assert (made["job"], made["state"]) == ("laptop/home/daily", "SUCCEEDED")
    assert made["run"]["snapshot"] == rig.complete()[-1].name
    assert said(rig, "pass") == []
    (rig.top / "known_hosts").write_text("")
    (made,) = said(rig, "backup", "laptop", code=75)
    assert (made["state"], made["run"]) == ("NOT_FOUND", None)
    assert "no host key" in made["reason"]


def test_the_daemon_says_the_same_for_programs(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    daemon = rig.start("run")
    until((rig.run_dir / "control").exists)
    (made,) = said(rig, "backup", "laptop", "--wait")
    assert (made["state"], made["run"]["outcome"]) == ("SUCCEEDED", "SUCCEEDED")
    assert said(rig, "pass", "--wait") == []
    daemon.terminate()


def test_what_looking_says_for_programs(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    assert said(rig, "snapshots") == said(rig, "history") == said(rig, "retention") == []
    snapshot = rig.back_up()
    assert said(rig, "status", code=75)["jobs"] == said(rig, "queue")
    assert said(rig, "history", "laptop")[0]["job"] == "laptop/home/daily"
    assert said(rig, "snapshots")[0]["path"] == str(snapshot)
    assert said(rig, "retention")[0]["kept"][0] == "the newest of all"
    assert said(rig, "why", "laptop", "--no-probe", code=75)[0]["verdict"] == "it is not due"
    assert said(rig, "probe", "laptop")["lost"] == []
    assert said(rig, "excludes", "test", "laptop/home") == ["(other file systems mounted below)"]
    (decision,) = said(rig, "excludes", "test", "laptop/home", "a")
    assert decision["backed_up"]
    (rig.source / "large").write_bytes(os.urandom(100_000))
    assert said(rig, "bench-ssh", "laptop/home", "large")


def test_what_marks_say_for_programs(rig: Rig) -> None:
    (rig.source / "a").write_text("1")
    name = f"laptop/home/daily/{rig.back_up().name}"
    assert said(rig, "keep", name, "the wedding")["note"] == "the wedding"
    assert "note: the wedding" in said(rig, "retention")[0]["kept"]
    assert said(rig, "unkeep", name) == {
        "job": "laptop/home/daily",
        "snapshot": name.rpartition("/")[2],
        "marked": False,
        "note": None,
    }


@pytest.mark.parametrize("verdict", ["accept", "reject"])
def test_what_is_said_for_programs_of_a_snapshot_held_back(rig: Rig, verdict: str) -> None:
    for number in range(40):
        (rig.source / f"file{number}").write_text("good")
    rig.back_up()
    for path in rig.source.iterdir():
        path.unlink()
    (held,) = said(rig, "backup", "laptop", code=1)
    assert held["state"] == "FAILED"
    (made,) = said(rig, verdict, "laptop")
    assert Path(made["path"]).exists() == (verdict == "accept")
    assert Path(made["path"]).name == made["name"]


def test_what_pauses_say_for_programs(rig: Rig) -> None:
    assert said(rig, "pause", "laptop", "--for", "2h")["target"] == "laptop"
    made = said(rig, "resume")
    assert (made["target"], made["ended"], made["paused"][0]["target"]) == ("", False, "laptop")
    assert said(rig, "resume", "laptop") == {"target": "laptop", "ended": True, "paused": []}


def test_what_a_stop_says_for_programs_and_a_vain_one_leaves_no_pause(rig: Rig) -> None:
    rig.configure("{bandwidth_limit: 200K}")
    (rig.source / "a").write_bytes(os.urandom(4_000_000))
    here = rig.start("backup", "laptop")
    until(lambda: bool(rig.rsyncs()))
    done = rig.call("stop", "laptop", "--json")
    assert (done.returncode, done.stdout) == (75, "")
    assert "no daemon runs it" in done.stderr
    assert said(rig, "resume")["paused"] == []
    here.terminate()
    here.wait(30)
    daemon = rig.start("run")
    until(lambda: bool(rig.rsyncs()))
    done = rig.call("stop", "--json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert checked("pause", json.dumps(made))["target"] == "laptop/home/daily"
    daemon.terminate()


def test_what_verifying_says_for_programs(rig: Rig) -> None:
    (rig.source / "a").write_text("1" * 1000)
    snapshot = rig.back_up()
    rig.call("chores")
    assert said(rig, "damage") == []
    assert said(rig, "drill")[0]["good"]
    assert said(rig, "doors")[0]["problems"] == []
    (rig.source / "a").unlink()
    status = (snapshot / "a").stat()
    (snapshot / "a").write_text("2" * 1000)
    os.utime(snapshot / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    made = said(rig, "verify", "--all", code=1)
    assert made["damaged"] == said(rig, "damage", code=1)
    assert made["damaged"][0]["path"] == "a"


def test_a_forecast_for_programs(rig: Rig) -> None:
    assert said(rig, "forecast")["days_left"] is None
    rig.back_up()
    start = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=30)
    with sqlite3.connect(rig.disk / ".flashback/history.db") as db:
        db.execute("DELETE FROM disk_use")
        for day in range(30):
            at = (start + timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ")
            used = 1000 + 10 * day + 40 * (day % 3)
            db.execute(
                "INSERT INTO disk_use (at, used, total, inodes_used, inodes) VALUES (?, ?, 1700, 0, 0)",
                (at, used),
            )
    made = said(rig, "forecast")
    assert made["samples"] == 30
    assert 0 < made["days_left_low"] < made["days_left"] < made["days_left_high"]
    assert f"({made['days_left_low']:.0f} to {made['days_left_high']:.0f})" in made["sentence"]
    assert made["sentence"] == rig.call("forecast").stdout.strip()


def test_a_configuration_checked_for_programs(rig: Rig) -> None:
    made = said(rig, "config", "check")
    assert (made["good"], made["jobs"]) == (True, ["laptop/home/daily"])
    rig.config.write_text(rig.config.read_text() + "nonsense: 1\n")
    made = said(rig, "config", "check", code=2)
    assert not made["good"]
    assert "nonsense" in made["problems"][0]


def test_an_adoption_for_programs(rig: Rig) -> None:
    old = rig.label.with_name("daily.1")
    old.mkdir(parents=True)
    (old / "a").write_text("1")
    made = said(rig, "adopt", "--dry-run")
    assert not made["renamed"]
    assert made["moves"][0]["old"].endswith("daily.1")
