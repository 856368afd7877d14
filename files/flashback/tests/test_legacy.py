"""Coming from the flashback of 2014: its two configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from flashback import config, legacy
from flashback.errors import FlashbackError
from flashback.model import Job

from .rig import Rig

LEGACY = Path(__file__).parent.parent / "examples/legacy"


def jobs(made: legacy.Imported) -> dict[str, Job]:
    return {job.name: job for job in config.parse(made.text, Path("new")).jobs}


def test_the_json_form_is_carried_over() -> None:
    made = legacy.convert(LEGACY / "flashback.json")
    found = jobs(made)
    daily = found["laptop/home/daily"]
    assert (daily.source, daily.user, daily.addresses) == ("/home/", "root", ("laptop.local",))
    assert (daily.period, daily.keep.last, daily.bandwidth_limit) == (86400, 9, "200K")
    assert daily.rsync_options == ("--ipv4", "--filter=- a b")
    assert daily.excludes == (".gvfs", "tmp")
    weekly = found["laptop/home/weekly"]
    assert (weekly.copy_of, weekly.period, weekly.keep.last) == ("daily", 7 * 86400, 6)
    hourly = found["laptop/sticks/hourly"]
    assert (hourly.period, hourly.source, hourly.removable, hourly.disabled) == (
        3600,
        "/media/*",
        True,
        False,
    )
    assert found["plug/root/weekly"].local
    assert found["off/x/daily"].disabled
    assert "odd/x/daily" not in found


def test_all_that_cannot_be_carried_over_is_said() -> None:
    notes = "\n".join(legacy.convert(LEGACY / "flashback.json").notes)
    for words in (
        "global.helper",
        "tool tar is unknown, the job is left out",
        "colour is unknown",
        "--rsync-path=/x is not",
    ):
        assert words in notes
    assert legacy.convert(LEGACY / "flashback.json").text == legacy.convert(LEGACY / "flashback.json").text


def test_the_form_of_february_2014_is_carried_over(tmp_path: Path) -> None:
    made = legacy.convert(LEGACY / "2014/flashback.conf")
    found = jobs(made)
    assert found["aspire/home/daily"].keep.last == 5
    assert found["aspire/home/weekly"].copy_of == "daily"
    assert (found["sheeva/root/daily"].period, found["sheeva/root/daily"].local) == (36 * 3600, True)
    assert any("flashback.jobs:5: has no host, volume or src" in note for note in made.notes)


def test_the_files_in_the_tree_override_the_table(tmp_path: Path) -> None:
    (tmp_path / "flashback.conf").write_text(f"topDir = {tmp_path}\n")
    (tmp_path / "flashback.jobs").write_text("host=a volume=v src=root@a:/x cycleDay=1\n")
    (tmp_path / "a/v").mkdir(parents=True)
    (tmp_path / "a/config").write_text("keepCount = 3\n")
    (tmp_path / "a/v/config").write_text("label = often\ncycleMin = 30\n")
    (tmp_path / "a/v/excludes").write_text("# no\n*.tmp\n")
    (only,) = jobs(legacy.convert(tmp_path / "flashback.conf")).values()
    assert (only.label, only.period, only.keep.last, only.excludes) == ("often", 1800, 3, ("*.tmp",))


@pytest.mark.parametrize(("text", "said"), [("{", "no valid JSON"), ("nonsense", "is not key = value")])
def test_an_old_configuration_that_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "old").write_text(text)
    with pytest.raises(FlashbackError, match=said):
        legacy.convert(tmp_path / "old")


def test_the_command_writes_a_file_that_loads(rig: Rig) -> None:
    done = rig.call("config", "import", str(LEGACY / "flashback.json"), "-o", str(rig.top / "new.yml"))
    assert done.returncode == 0, done.stderr
    assert "! odd" not in done.stdout
    assert "left out" in done.stderr
    assert rig.call("config", "check", str(rig.top / "new.yml")).returncode == 0
    assert (
        "exists already"
        in rig.call("config", "import", str(LEGACY / "flashback.json"), "-o", str(rig.top / "new.yml")).stderr
    )
