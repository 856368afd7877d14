"""Coming from the flashback of 2014: its two configurations."""

from __future__ import annotations

import json
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
        "colour: is unknown",
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


def as_json(tmp_path: Path, hosts: object, **more: object) -> legacy.Imported:
    """Convert a JSON configuration; a host is given by its jobs in a volume `v`, or as it is written."""
    top = {
        "global": {"dataDir": "/old"},
        "defaults": {"tool": "rsync", "cycleDay": 1},
        "hosts": hosts,
        **more,
    }
    (tmp_path / "old.json").write_text(json.dumps(top))
    return legacy.convert(tmp_path / "old.json")


def host(**labels: object) -> dict[str, object]:
    return {"volumes": {"v": {"jobs": labels}}}


@pytest.mark.parametrize(
    ("src", "wanted"),
    [
        ("root@h:/x/", ("/x/", "root", ("h",), False)),
        ("h:/x/", ("/x/", "root", ("h",), False)),
        ("me@[fe80::1%eth0]:/a b/", ("/a b/", "me", ("fe80::1%eth0",), False)),
        ("root@h:/mnt/x/*", ("/mnt/x/*", "root", ("h",), False)),
        ("/x:y/", ("/x:y/", "root", ("host",), True)),
        ("/", ("/", "root", ("host",), True)),
        ("h::module/x/", ("rsync://h/module/x/", "root", ("host",), False)),
        ("me@h::module/x/", ("rsync://me@h/module/x/", "root", ("host",), False)),
        ("rsync://h:99/module/", ("rsync://h:99/module/", "root", ("host",), False)),
    ],
)
def test_a_source_is_split(tmp_path: Path, src: str, wanted: object) -> None:
    made = as_json(tmp_path, {"host": host(daily={"src": src})})
    (job,) = jobs(made).values()
    assert (job.source, job.user, job.addresses, job.local) == wanted
    assert made.notes == []


def test_both_names_of_a_client_are_tried(tmp_path: Path) -> None:
    made = as_json(
        tmp_path,
        {"a": {"fqdn": "a.example.org", **host(daily={"src": "root@a:/x/"}, more={"src": "root@a.lan:/y/"})}},
    )
    assert {job.addresses for job in jobs(made).values()} == {("a", "a.example.org", "a.lan")}
    assert made.notes == []


def test_what_belongs_to_another_machine_or_user_is_not_mixed_in(tmp_path: Path) -> None:
    made = as_json(
        tmp_path,
        {"a": host(one={"src": "root@a:/x/"}, two={"src": "root@b:/x/"}, three={"src": "me@a:/x/"})},
    )
    assert set(jobs(made)) == {"a/v/one"}
    assert "hosts.a.volumes.v.jobs.two: is fetched from b" in made.notes[0]
    assert "hosts.a.volumes.v.jobs.three: logs in as me" in made.notes[1]


@pytest.mark.parametrize(
    ("options", "settings", "more"),
    [
        ("-v --bwlimit=200", {"bandwidth_limit": "200K"}, ()),
        ("--bwlimit 1.5m", {"bandwidth_limit": "1.5M"}, ()),
        ("--bwlimit=0.5m", {"bandwidth_limit": "500K"}, ()),
        ("--bwlimit=0", {"bandwidth_limit": None}, ()),
        ("--bwlimit=0.5k --bwlimit=007", {"bandwidth_limit": "7K"}, ()),
        ("--bwlimit=0.5", {"bandwidth_limit": "1K"}, ()),
        ("--exclude '*.tmp' --exclude=x", {"excludes": ("*.tmp", "x")}, ()),
        ("-avzHc46", {}, ("--compress", "--checksum", "--ipv4", "--ipv6")),
        ("-W --no-one-file-system", {"whole_file": True, "one_file_system": False}, ()),
        ("--max-size=10m", {"exclude_larger_than": "10M"}, ()),
        ("-e 'ssh -p 2222'", {"port": 2222}, ()),
        ("--rsh='ssh -p2222'", {"port": 2222}, ()),
        ("--filter '- a b' --timeout 60", {}, ("--filter=- a b", "--timeout=60")),
    ],
)
def test_options_of_rsync_become_settings(
    tmp_path: Path, options: str, settings: dict[str, object], more: tuple[str, ...]
) -> None:
    made = as_json(tmp_path, {"a": host(daily={"src": "root@a:/x/", "rsyncOpts": options})})
    (job,) = jobs(made).values()
    assert {name: getattr(job, name) for name in settings} == settings
    assert job.rsync_options == more
    assert made.notes == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rsync-path='sudo rsync'", "--rsync-path=sudo rsync is not allowed"),
        ("--bwlimit=fast", "--bwlimit=fast is no rate"),
        ("--exclude", "--exclude lacks its value"),
        ("--filter=", "--filter= is not allowed"),
        ("-nv", "-n is not allowed"),
        ("--dry-run stray", "stray is not allowed"),
        ("-e 'ssh -i /k -p 7'", "--rsh=ssh -i /k -p 7 is the engine's own matter"),
        ("--exclude-from=/nowhere", "--exclude-from=/nowhere names a file that cannot be read"),
        ("'open", "rsyncOpts cannot be read"),
    ],
)
def test_options_that_cannot_be_carried_over_are_named(tmp_path: Path, options: str, said: str) -> None:
    made = as_json(tmp_path, {"a": host(daily={"src": "root@a:/x/", "rsyncOpts": options})})
    assert len(jobs(made)) == 1
    assert said in "\n".join(made.notes)


def test_b04_hosts_that_shared_a_folder_get_one_each(tmp_path: Path) -> None:
    made = as_json(
        tmp_path,
        {
            "www.one.org": host(daily={"src": "root@www.one.org:/x/"}),
            "www.two.org": host(daily={"src": "root@www.two.org:/x/"}),
            "b.one.org": host(
                daily={"src": "root@b.one.org:/x/"}, weekly={"src": "/old/b/v/daily.1", "tool": "cp"}
            ),
        },
    )
    assert {job.host for job in jobs(made).values()} == {"www.one.org", "www.two.org", "b"}
    assert jobs(made)["b/v/weekly"].copy_of == "daily"
    assert "hosts.www.one.org: shared the folder www with www.two.org" in made.notes[0]


def test_b06_settings_that_never_counted_are_said(tmp_path: Path) -> None:
    made = as_json(
        tmp_path,
        {"a": host(daily={"src": "root@a:/x/"})},
        **{"global": {"dataDir": "/old", "keepCount": 5}, "defaults": {}},
    )
    notes = "\n".join(made.notes)
    for words in ("global.keepCount: never counted", "it has no tool", "its period is nothing"):
        assert words in notes
    (job,) = jobs(made).values()
    assert (job.period, job.keep.last) == (86400, 9)


@pytest.mark.parametrize(
    ("value", "disabled", "noted"),
    [
        ("N", False, True),
        ("no", False, True),
        ("Y", True, False),
        (True, True, False),
        (False, False, False),
        ("x", True, True),
    ],
)
def test_b09_no_means_no(tmp_path: Path, value: object, disabled: bool, noted: bool) -> None:
    made = as_json(tmp_path, {"a": {"disabled": value, **host(daily={"src": "root@a:/x/"})}})
    (job,) = jobs(made).values()
    assert (job.disabled, bool(made.notes)) == (disabled, noted)


def test_b10_the_nearest_period_counts_and_the_change_is_said(tmp_path: Path) -> None:
    made = as_json(
        tmp_path,
        {"a": host(often={"src": "root@a:/x/", "cycleHour": 6}, half={"src": "root@a:/y/", "cycleDay": 0.5})},
    )
    assert [job.period for job in jobs(made).values()] == [6 * 3600, 43200]
    assert made.notes == [
        "hosts.a.volumes.v.jobs.often: its period is 6h as its nearest setting says; "
        "the old engine took 1d, for a longer unit further above won"
    ]


def test_a_second_level_whose_first_is_missing_is_left_out(tmp_path: Path) -> None:
    second = {"tool": "cp", "src": "/old/a/v/daily.1", "cycleDay": 7}
    made = as_json(
        tmp_path,
        {
            "a": {
                "volumes": {"v": {"jobs": {"weekly": second}}, "w": {"jobs": {"x": {"src": "root@a:/x/"}}}}
            },
            "b": host(
                one={"src": "root@b:/x/"},
                daily={"src": "me@b:/y/"},
                weekly={**second, "src": "/old/b/v/daily.1"},
            ),
            "c": host(weekly={"tool": "cp", "src": "/elsewhere/"}),
        },
    )
    assert set(jobs(made)) == {"a/w/x", "b/v/one", "c/v/weekly"}
    notes = "\n".join(made.notes)
    for words in (
        "jobs.weekly: it copies /old/a/v/daily.1",
        "b/v/weekly: what it copies is left out",
        "is done by rsync now",
    ):
        assert words in notes


def test_odd_jobs_are_left_out_and_named(tmp_path: Path) -> None:
    made = as_json(
        tmp_path,
        {
            "a": host(
                none={},
                relative={"src": "root@a:Documents"},
                up={"src": "/x/../y"},
                good={"src": "/x", "keepCount": 0, "excludes": "one"},
                **{"a b": {"src": "/x"}, "incoming": {"src": "/x"}},
            )
        },
    )
    assert set(jobs(made)) == {"a/v/good"}
    assert (jobs(made)["a/v/good"].keep.last, jobs(made)["a/v/good"].excludes) == (9, ("one",))
    notes = "\n".join(made.notes)
    for words in (
        "none: it has no src",
        "relative: root@a:Documents is no absolute path",
        "up: /x/../y is no absolute path",
        "a b: `a b` is not a usable name",
        "incoming: `incoming` is reserved",
        "good: keepCount 0 is no number of snapshots; 9 is used",
        "good: /x has no slash at its end",
    ):
        assert words in notes


@pytest.mark.parametrize(
    "hosts", [[], {"a": []}, {"a": {"volumes": 3}}, {"a": {"volumes": {"v": {"jobs": []}}}}]
)
def test_a_configuration_of_another_shape_is_refused(tmp_path: Path, hosts: object) -> None:
    with pytest.raises(FlashbackError, match="is no mapping of names to values"):
        as_json(tmp_path, hosts)


def test_a_name_given_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "old").write_text('{"hosts": {"a": {"volumes": {}}, "a": {"volumes": {}}}}')
    assert "a: is given twice at one place, the last one counts" in legacy.convert(tmp_path / "old").notes


def test_comments_stay(tmp_path: Path) -> None:
    top = {"comment": "My\nlaptop: # 1", **host(daily={"src": "root@a:/x/", "comment": "each day"})}
    made = as_json(tmp_path, {"a": top})
    assert "  # My\n  # laptop: # 1\n  a:\n" in made.text
    assert "          # each day\n          daily:\n" in made.text
    assert len(jobs(made)) == 1


def test_what_looks_like_something_else_in_yaml_stays_a_name(tmp_path: Path) -> None:
    labels = {
        "no": {"src": "root@no:/x/", "excludes": ["- #x", "null", "a: b", "ü", "123"]},
        "1": {"src": "root@no:/y/"},
    }
    made = jobs(as_json(tmp_path, {"no": host(**labels)}))
    assert set(made) == {"no/v/no", "no/v/1"}
    assert made["no/v/no"].excludes == ("- #x", "null", "a: b", "ü", "123")


def test_lines_of_the_table_that_are_odd_are_named_with_their_place(tmp_path: Path) -> None:
    table = tmp_path / "flashback.jobs"
    (tmp_path / "flashback.conf").write_text("cycleDay = 1\nlabel = hourly\nserverOpts = x\ncolour = red\n")
    table.write_text(
        "host=a.lan volume=v src=root@a:/x/ cycleHour=12 rsyncOpts=--bwlimit=60 disabled=on\n"
        "# nothing\n"
        "host=a.lan volume=v src=root@a:/y/ what size=3\n"
    )
    made = legacy.convert(tmp_path / "flashback.conf")
    (only,) = jobs(made).values()
    assert (only.name, only.period, only.bandwidth_limit, only.disabled) == (
        "a/v/hourly",
        43200,
        "60K",
        False,
    )
    assert made.notes == [
        f"{tmp_path}/flashback.conf:3: serverOpts is not needed any more (x), left out",
        f"{tmp_path}/flashback.conf:4: colour is unknown (red), left out",
        f"{table}:1: the old engine did not read `rsyncOpts=--bwlimit=60` for its second =; now it counts",
        f"{table}:3: `what` is unknown, left out",
        f"{table}:3: `size=3` is unknown, left out",
        f"{table}:1: disabled on is neither yes nor no; it counts as no, as before",
        f"{table}:3: a/v/hourly is there already; this one is left out",
    ]


def test_the_old_disk_may_be_mounted_elsewhere(tmp_path: Path, rig: Rig) -> None:
    (tmp_path / "flashback.conf").write_text("topDir = /nowhere/else\n")
    (tmp_path / "flashback.jobs").write_text("host=a.lan volume=v src=root@a:/x/\n")
    (tmp_path / "old/a/v").mkdir(parents=True)
    (tmp_path / "old/a/v/excludes").write_text("*.iso\n; no\n+ keep\n")
    (tmp_path / "old/config").write_text("keepCount = 4\ncolour = red\n")
    done = rig.call("config", "import", str(tmp_path / "flashback.conf"), "--excludes", str(tmp_path / "old"))
    (job,) = config.parse(done.stdout, Path("new")).jobs
    assert (job.keep.last, job.excludes) == (4, ("*.iso", "+ keep"))
    assert done.stderr == f"! {tmp_path}/old/config:2: colour is unknown, left out\n"
