"""What has to be done with units of systemd, from what `systemctl show` says of them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_plugins import load

units = load("modules/units.py")

SAID = """\
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no

LoadState=not-found
ActiveState=inactive
UnitFileState=
NeedDaemonReload=no
"""
WANTED = {"running": True, "generated": False, "momentary": False, "restarted": False}


def test_what_systemctl_says_of_each_unit_is_read() -> None:
    running, absent = units.parsed(SAID)
    assert running["ActiveState"] == "active"
    assert absent == {
        "LoadState": "not-found",
        "ActiveState": "inactive",
        "UnitFileState": "",
        "NeedDaemonReload": "no",
    }


@pytest.mark.parametrize(
    ("wanted", "file", "active", "words"),
    [
        ({}, "enabled", "active", []),
        ({}, "disabled", "active", ["enable"]),
        ({}, "enabled", "failed", ["start"]),
        ({}, "", "inactive", ["enable", "start"]),
        ({}, "static", "activating", []),
        ({"running": False}, "enabled", "active", ["disable", "stop"]),
        ({"running": False}, "", "inactive", []),
        ({"generated": True}, "generated", "inactive", ["start"]),
        ({"momentary": True}, "disabled", "inactive", ["enable"]),
        ({"momentary": True}, "enabled", "activating", []),
        ({"momentary": True, "running": False}, "enabled", "active", ["disable"]),
        ({"restarted": True}, "enabled", "active", ["restart"]),
        ({"restarted": True}, "enabled", "inactive", ["start"]),
    ],
)
def test_only_what_differs_is_done(wanted: dict[str, Any], file: str, active: str, words: list[str]) -> None:
    is_now = {"UnitFileState": file, "ActiveState": active}
    assert units.steps({**WANTED, **wanted}, is_now) == words
