"""``workbench``: what the Makefile calls; everything else goes through Ansible."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from workbench import sample_client, virtual_plug
from workbench.errors import WorkbenchError


def main() -> int:
    """Run one command; return 0 when it is done, 1 when a person must act."""
    parser = argparse.ArgumentParser(prog="workbench", description=__doc__)
    parser.add_argument("folder", type=Path, help="the virtual plug's folder")
    parser.add_argument("command", choices=("status", "stop", "cut-power", "clean"))
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        commands = {"status": _status, "stop": _stop, "cut-power": _cut_power, "clean": _clean}
        return commands[arguments.command](folder)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 1


def _status(folder: Path) -> int:
    pid = virtual_plug.pid_of(folder)
    if pid is None:
        print("The virtual plug is off. `make plug` starts it.")
        return 1
    machine = json.loads((folder / "machine.json").read_text())
    print(
        f"The virtual plug is on (process {pid}, {machine['acceleration']}, {machine['memory_mib']} MiB,"
        f" ssh on port {machine['ssh_port']})."
    )
    return 0


def _stop(folder: Path) -> int:
    stopped = virtual_plug.stop(folder)
    sample_client.stop(folder / "client")
    print("The virtual plug is off." if stopped else "The virtual plug was off already.")
    return 0


def _clean(folder: Path) -> int:
    _stop(folder)
    virtual_plug.remove(folder)
    if folder.exists():
        print(f"{folder} is kept: it holds files that are not the virtual plug's.")
    return 0


def _cut_power(folder: Path) -> int:
    cut = virtual_plug.cut_power(folder)
    print("The virtual plug has lost its power." if cut else "The virtual plug was off already.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
