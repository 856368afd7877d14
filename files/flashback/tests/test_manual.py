"""The manual, the reference and the completion come from the commands themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flashback import config, manual
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


def test_every_setting_is_in_the_manual_with_its_check_and_its_default() -> None:
    sections = {f"{name}.{key}" for name, (checks, _) in config.SECTIONS.items() for key in checks}
    assert set(manual.MEANINGS) == {*config.TOP, *sections, *config.HOST, *config.SETTINGS, *config.JOB}
    page, told = manual.markdown(cli), dict([*manual.settings(), *manual.job_settings()])
    assert len(told) == len(manual.MEANINGS)
    for name, text in told.items():
        assert f"- `{name}`: {text}\n" in page
        assert text[0].islower()
    for name, words in (
        ("data_dir", "Wanted: an absolute path. Required."),
        ("interval", "such as 90s or 1d12h. Default: 10m."),
        ("concurrency", "Wanted: a whole number from 1 to 8. Default: 1."),
        ("ssh.key", "Default: /var/lib/flashback/.ssh/id_ed25519."),
        ("verify.per_night", "Default: 2G."),
        ("verify.at", "Default: 03:00."),
        (
            "hosts.HOST.addresses",
            "an IPv4 or IPv6 address or a name, without port. Default: the host's own name.",
        ),
        ("keep", "a number or {daily: 9, weekly: 6}. Default: 9."),
        ("guard", "Default: true."),
        ("blackouts", "`08:00-18:00` or `mon-fri 08:00-18:00`. Default: none."),
        ("rsync_options", "--modify-window"),
    ):
        assert words in told[name]


def test_the_defaults_in_the_manual_are_those_of_an_empty_configuration() -> None:
    """Written out, what the manual calls the default gives the very same configuration."""
    shortest = "data_dir: /x\nhosts: {h: {volumes: {v: {jobs: {j: {source: /y"
    said = {name: text.rpartition("Default: ")[2].removesuffix(".") for name, text in manual.job_settings()}
    written = "".join(
        f", {name}: {value}"
        for name, value in said.items()
        if value != "none" and not value.endswith("Required")
    )
    plain = config.parse(shortest + "}}}}}}\n", Path("x"))
    assert config.parse(shortest + written + "}}}}}}\n", Path("x")) == plain
    top: dict[str, object] = {}
    for name, text in manual.settings():
        value = text.rpartition("Default: ")[2].removesuffix(".")
        section, dot, key = name.rpartition(".")
        if not name.startswith("hosts.") and value != "none" and not value.endswith("Required"):
            (top.setdefault(section, {}) if dot else top)[key] = value  # type: ignore[index]
    text = "".join(f"{key}: {value}\n" for key, value in top.items() if isinstance(value, str))
    for section, values in top.items():
        if isinstance(values, dict):
            text += (
                f"{section}: {{"
                + ", ".join(
                    f"{key}: {value}" if ":" not in value else f'{key}: "{value}"'
                    for key, value in values.items()
                )
                + "}\n"
            )
    assert config.parse(shortest + "}}}}}}\n" + text, Path("x")) == plain


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
