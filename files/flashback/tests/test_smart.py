"""What smartctl says of a disk, as it reaches a person: documents as real disks give them, shortened."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from flashback import smart

from .rig import Rig, until

NOW = 1_790_000_000


def ata(passed: bool = True, **counts: int) -> dict[str, Any]:
    table = [{"id": int(name[1:]), "name": name, "raw": {"value": count}} for name, count in counts.items()]
    return {
        "json_format_version": [1, 0],
        "local_time": {"time_t": NOW, "asctime": "Mon Sep 21 14:13:20 2026 UTC"},
        "smart_status": {"passed": passed},
        "ata_smart_attributes": {"revision": 16, "table": table},
        "power_on_time": {"hours": 20_000},
        "temperature": {"current": 38},
    }


def with_tests(*results: bool | None) -> dict[str, Any]:
    """Tests of itself, the newest first; None is one that was interrupted."""
    table = [{"status": {"value": 0} if each is None else {"passed": each}} for each in results]
    return {"ata_smart_self_test_log": {"standard": {"revision": 1, "table": table}}}


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        (ata(_5=0, _197=0, _198=0), []),
        (ata(_5=12), []),
        (ata(_197=8), ["8 sectors that can not be read now"]),
        (ata(passed=False, _198=3), ["it expects to fail soon", "3 sectors that could not be read"]),
        ({**ata(), **with_tests(None, True, False)}, []),
        ({**ata(), **with_tests(None, False, True)}, ["its last test of itself failed"]),
        (
            {**ata(), "nvme_smart_health_information_log": {"media_errors": 2}},
            ["2 errors of its memory"],
        ),
    ],
)
def test_what_stands_for_lost_content_is_a_problem(said: dict[str, Any], problems: list[str]) -> None:
    found = smart.judge(said)
    assert list(found.problems) == problems
    assert (found.known, found.temperature, found.hours) == (True, 38, 20_000)


def test_a_disk_that_says_nothing_is_neither_well_nor_ill() -> None:
    bare = {"local_time": {"time_t": NOW}, "smart_support": {"available": False}}
    assert smart.judge(bare) == smart.Smart(at=datetime.fromtimestamp(NOW, timezone.utc))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"local_time": 3}', '{"smart_status": []}', "\xff"]
)
def test_a_broken_file_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "smart.json"
    path.write_bytes(text.encode("latin-1"))
    assert smart.read(path, datetime.now(timezone.utc)) == smart.Smart()


def test_nor_does_an_old_or_absent_one(tmp_path: Path) -> None:
    path = tmp_path / "smart.json"
    path.write_text(json.dumps(ata(passed=False)))
    at = datetime.fromtimestamp(NOW, timezone.utc)
    assert smart.read(path, at + timedelta(days=7)).problems
    assert smart.read(path, at + timedelta(days=9)) == smart.Smart()
    assert smart.read(tmp_path / "absent", at) == smart.Smart()
    assert smart.read(None, at) == smart.Smart()


def test_an_ill_disk_is_told_with_what_to_do(rig: Rig) -> None:
    path = rig.top / "smart.json"
    rig.config.write_text(rig.config.read_text() + f"smart: {path}\n")
    path.write_text(json.dumps({**ata(_197=8), "local_time": {"time_t": int(time.time())}}))
    rig.start("run")
    until(lambda: rig.complete() and rig.call("status").returncode == 1)
    told = rig.call("status").stdout
    assert "the backup disk is ill: 8 sectors that can not be read now; replace it soon" in told
    shown = json.loads(rig.call("status", "--json").stdout)["disk"]["smart"]
    assert shown["power_on_hours"] == 20_000
