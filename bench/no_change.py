"""Time a run of site.yml that changes nothing, with the project's ansible.cfg and without it.

The virtual plug is built first where it is not there.  Both kinds of run take turns; without ansible.cfg
only the places of roles and plugins are told to Ansible, all else is its default.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
ROUNDS = 3
# Where Ansible is told of what would not be found otherwise.
PLACES = {
    "roles_path": "ANSIBLE_ROLES_PATH",
    "library": "ANSIBLE_LIBRARY",
    "module_utils": "ANSIBLE_MODULE_UTILS",
    "vars_plugins": "ANSIBLE_VARS_PLUGINS",
    "lookup_plugins": "ANSIBLE_LOOKUP_PLUGINS",
    "action_plugins": "ANSIBLE_ACTION_PLUGINS",
    "inventory": "ANSIBLE_INVENTORY",
}


def bare(empty: Path) -> dict[str, str]:
    """Return the environment of a run without the project's settings."""
    settings = ConfigParser(interpolation=None)
    settings.read(PROJECT / "ansible.cfg")
    places = {name: str(PROJECT / settings["defaults"][option]) for option, name in PLACES.items()}
    return {**os.environ, "ANSIBLE_CONFIG": str(empty), **places}


def seconds(environment: dict[str, str], *, unchanged: bool = True) -> float:
    """Run site.yml and return how long it took; end the program when something was not as it should be."""
    begun = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", "site.yml"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.monotonic() - begun
    changed = {int(number) for number in re.findall(r"changed=(\d+)", done.stdout)}
    if done.returncode != 0 or (unchanged and changed != {0}):
        print(done.stdout, done.stderr, file=sys.stderr)
        sys.exit("site.yml failed" if done.returncode else "site.yml changed something")
    return took


def main() -> None:
    """Print the medians and their ratio."""
    ours = dict(os.environ)
    seconds(ours, unchanged=False)
    with tempfile.NamedTemporaryFile(suffix=".cfg") as empty:
        theirs = bare(Path(empty.name))
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    own, other = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"A run of site.yml that changes nothing, median of {ROUNDS}:")
    print(f"  with the project's ansible.cfg     {own:6.1f} s")
    print(f"  without it                         {other:6.1f} s")
    print(f"  ratio                              {own / other:6.2f}")


if __name__ == "__main__":
    main()
