"""No program outlives the run that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workbench import processes
from workbench.errors import WorkbenchError


def test_what_a_program_prints_is_returned() -> None:
    assert processes.run(["echo", "hello"], what="Greeting") == "hello\n"


def test_a_failure_is_told_in_one_line_with_the_programs_own_words() -> None:
    with pytest.raises(WorkbenchError) as caught:
        processes.run(["sh", "-c", "echo noise; echo E: no such mirror; echo more; exit 3"], what="Building")
    what, _, log = str(caught.value).removesuffix(".").partition(". All that it printed is in ")
    assert what == "Building failed: E: no such mirror"
    assert Path(log).read_text().startswith("sh -c 'echo noise;")
    assert Path(log).read_text().endswith("noise\nE: no such mirror\nmore\n")
    Path(log).unlink()


def test_missing_tools_are_named_all_at_once() -> None:
    with pytest.raises(WorkbenchError, match=r"lacks no-such-a, no-such-b\. Run `make setup`"):
        processes.require_tools("sh", "no-such-a", "no-such-b")


def test_a_process_is_not_taken_for_a_later_one_with_its_number() -> None:
    me = processes.process(os.getpid())
    assert me is not None
    assert me.alive
    assert not processes.Process(me.pid, me.started + 1).alive


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 5
    while processes.process(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes.process(child.pid) is None
    child.wait()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_ends_when_its_launcher_is_gone(tmp_path: Path, end: signal.Signals) -> None:
    """The launcher here plays ansible-playbook; its worker sits in a session of its own, as Ansible's do."""
    note = tmp_path / "pid"
    worker = (
        "from workbench import processes; "
        f"processes.run(['sh', '-c', 'echo $$ >{note}; exec sleep 1000'], what='Sleeping')"
    )
    script = tmp_path / "ansible-playbook"
    script.write_text(
        f"import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {worker!r}], start_new_session=True)\n"
    )
    launcher = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not (note.exists() and note.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sleeper = processes.process(int(note.read_text()))
    assert sleeper is not None
    launcher.send_signal(end)
    launcher.wait()
    while sleeper.alive:
        assert time.monotonic() < deadline, "the program outlived its launcher"
        time.sleep(0.05)
