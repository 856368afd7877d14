"""The manual, the reference and the completion come from the commands themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flashback import manual
from flashback.cli import COMMANDS, cli

from .rig import Rig

REFERENCE = Path(__file__).parent.parent / "docs/commands.md"


def test_every_command_is_in_the_manual_with_every_option() -> None:
    page, found = manual.man_page(cli), dict(manual.commands(cli))
    assert {name.split()[1] for name in found} == set(COMMANDS)
    for name, command in found.items():
        assert name in page.replace("\\-", "-")
        for parameter in command.params:
            assert all(
                option in page.replace("\\-", "-") for option in parameter.opts if option.startswith("-")
            )


def test_the_manual_page_is_clean_roff() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"],
        input=manual.man_page(cli),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text() == manual.markdown(cli), (
        "run `flashback manual --markdown > docs/commands.md`"
    )


@pytest.mark.parametrize(
    ("words", "offered"),
    [("sna", ["snapshots"]), ("backup la", ["laptop"]), ("backup laptop/home/", ["laptop/home/daily"])],
)
def test_bash_completes_commands_and_jobs(rig: Rig, words: str, offered: list[str]) -> None:
    script = rig.call("completion", "bash").stdout
    assert "complete" in script
    program = Path(sys.executable).with_name("flashback")
    assert shutil.which(str(program))
    count = len(words.split())
    asked = (
        f"export FLASHBACK_CONFIG={rig.config}\n{script}\nCOMP_WORDS=(flashback {words}); COMP_CWORD={count}"
    )
    asked += f'; _flashback_completion {program}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert done.stdout.split() == offered, done.stderr
