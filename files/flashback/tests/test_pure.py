"""The rules: configuration, schedule, retention, text forms, LED patterns, imports."""

from __future__ import annotations

import ast
from datetime import datetime, timedelta, timezone
from pathlib import Path

import flashback
import pytest
from flashback import config, led, retention, schedule, status, transfer
from flashback.errors import ConfigError
from flashback.model import Job, Keep, ServerState, snapshot_name, snapshot_time
from hypothesis import example, given
from hypothesis import strategies as st

EXAMPLES = Path(__file__).parent.parent / "examples"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2090, 1, 1)).map(
    lambda each: each.replace(microsecond=0, tzinfo=timezone.utc)
)
PURE = ("model", "errors", "config", "schedule", "retention")


def job(name: str = "box", **settings: object) -> Job:
    return Job(host=name, volume="all", label="daily", source="/", addresses=(name,), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    assert config.load(path).data_dir == Path("/srv/backup")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("invalid/*.yml")), ids=lambda path: path.stem)
def test_every_invalid_example_fails_with_the_message_beside_it(path: Path) -> None:
    wanted = path.read_text().splitlines()[0].removeprefix("# ")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{path}:{wanted}")


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse("interval: 5\nfoo: 1\ndefaults: {keep: x}\n", Path("f.yml"))
    assert [line.split(":")[1] for line in caught.value.problems] == ["1", "1", "2", "3"]


def test_settings_resolve_from_job_to_defaults_and_excludes_add_up() -> None:
    jobs = {each.name: each for each in config.load(EXAMPLES / "home.yml").jobs}
    assert jobs["laptop/home/weekly"].period == 7 * 86400
    assert jobs["laptop/home/daily"].keep.last == 9
    assert jobs["laptop/home/daily"].excludes == (".cache/", "lost+found/")
    assert jobs["no/all/daily"].timeout == 6 * 3600
    assert jobs["localhost/etc/daily"].local


def test_b04_two_hosts_with_one_short_name_have_two_directories() -> None:
    text = "data_dir: /d\nhosts:\n"
    for host in ("web.a.org", "web.b.org"):
        text += f"  {host}: {{volumes: {{v: {{source: /, jobs: {{daily: }}}}}}}}\n"
    assert [each.host for each in config.parse(text, Path("f")).jobs] == ["web.a.org", "web.b.org"]


def test_b05_a_host_with_dots_has_several_jobs() -> None:
    text = "data_dir: /d\nhosts: {a.b.c: {volumes: {v: {source: /x, jobs: {daily: , weekly: {period: 1w}}}}}}"
    assert [each.source for each in config.parse(text, Path("f")).jobs] == ["/x", "/x"]


def test_b06_without_defaults_a_job_has_a_period_and_a_number_to_keep() -> None:
    text = "data_dir: /d\nhosts: {a: {volumes: {v: {source: /x, jobs: {daily: }}}}}"
    (only,) = config.parse(text, Path("f")).jobs
    assert (only.period, only.keep.last) == (86400, 9)


def test_b07_an_unknown_tool_is_refused() -> None:
    text = "data_dir: /d\nhosts: {a: {volumes: {v: {source: /x, jobs: {daily: {tool: tar}}}}}}"
    with pytest.raises(ConfigError, match="tool: is unknown"):
        config.parse(text, Path("f"))


def test_b09_a_quoted_no_disables_nothing_but_is_refused() -> None:
    text = "data_dir: /d\nhosts: {a: {volumes: {v: {source: /x, jobs: {daily: {disabled: 'N'}}}}}}"
    with pytest.raises(ConfigError, match="disabled: `N` is not a boolean"):
        config.parse(text, Path("f"))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("keep: {daily: 9, weekley: 6}", "`weekley` is unknown .did you mean `weekly`?"),
        ("keep: {daily: 0}", "nothing would be kept"),
        ("blackouts: ['8-18']", "is not a time of the week"),
        ("blackouts: ['08:00-25:00']", "is not a time of the day"),
        ("only_networks: [192.168.1.1/24]", "is not a network"),
        ("before: /bin/x", "no shell reads it"),
        ("before: [x]", "absolute path"),
        ("source: 'rsync://host'", "is not an rsync address"),
        ("from: weekly", "no other job of this volume"),
        ("exclude_file: a/b", "a file's name"),
        ("exclude_larger_than: 5", "a size with its unit"),
        ("rsync_options: [--exclude, x]", "lacks its value"),
        ("rsync_options: [--compress-level]", "lacks its value"),
        ("rsync_options: [--acls=x]", "takes no value"),
    ],
)
def test_what_a_job_cannot_say(setting: str, said: str) -> None:
    source = "" if setting.startswith("source") else "source: /x, "
    text = f"data_dir: /d\nhosts: {{a: {{volumes: {{v: {{jobs: {{daily: {{{source}{setting}}}}}}}}}}}}}"
    with pytest.raises(ConfigError, match=said):
        config.parse(text, Path("f"))


def test_settings_without_effect_are_said() -> None:
    text = (
        "data_dir: /d\nhosts: {a: {local: true, mac: '00:11:22:33:44:55', volumes: {v: {source: /x, jobs: "
        "{daily: {blackouts: ['08:00-18:00']}, weekly: {from: daily, excludes: [x]}}}}}}"
    )
    said = "\n".join(config.advice(config.parse(text, Path("f"))))
    assert "a/v/daily: blackouts count only where always_on is true" in said
    assert "a/v/daily: is local" in said
    assert config.advice(config.load(EXAMPLES / "everything.yml")) == []


def test_every_setting_is_read() -> None:
    text = (EXAMPLES / "everything.yml").read_text()
    loaded = config.load(EXAMPLES / "everything.yml")
    assert (loaded.concurrency, loaded.floor, loaded.verify_bytes, loaded.verify_at) == (2, 3, 5 * 10**9, 150)
    jobs = {each.name: each for each in loaded.jobs}
    server = jobs["server/root/daily"]
    assert (server.keep.daily, server.keep.yearly, server.blackouts[0].start) == (9, 3, 480)
    assert (server.before, server.max_rtt_ms) == (("/usr/local/bin/dump-databases", "--all"), 80)
    assert jobs["server/root/weekly"].copy_of == "daily"
    known = {*config.SETTINGS, *config.JOB, *config.HOST, *config.TOP}
    assert [key for key in known if f"{key}:" not in text] == []


def test_b10_the_nearest_level_decides_whatever_the_unit() -> None:
    text = "data_dir: /d\ndefaults: {period: 1d}\n"
    text += "hosts: {a: {volumes: {v: {source: /x, jobs: {h: {period: 6h}}}}}}"
    assert config.parse(text, Path("f")).jobs[0].period == 6 * 3600


def test_b12_an_option_with_a_blank_stays_one_option() -> None:
    command = transfer.command(job(rsync_options=("--exclude=a b",)), "h", "incoming", [])
    assert "--exclude=a b" in command


def test_b19_no_fixed_names_in_tmp() -> None:
    for path in Path(flashback.__file__).parent.rglob("*.py"):
        assert "/tmp" not in path.read_text()
        assert "shell=True" not in path.read_text()


@given(st.text())
@example("NULL")
def test_any_text_gives_a_configuration_or_a_list_of_mistakes(text: str) -> None:
    try:
        config.parse(text, Path("f"))
    except ConfigError as error:
        assert error.problems


@given(MOMENTS)
def test_a_snapshots_name_reads_back(moment: datetime) -> None:
    assert snapshot_time(snapshot_name(moment)) == moment


@pytest.mark.parametrize(
    "name", ["2026-11-23T030000", "2026-13-01T000000Z", "2026-1-023T030000Z", "incoming", ""]
)
def test_other_names_are_no_snapshots(name: str) -> None:
    assert snapshot_time(name) is None


@given(st.lists(MOMENTS, min_size=1), st.integers(1, 20))
def test_the_newest_are_kept_and_the_rest_goes(taken: list[datetime], keep: int) -> None:
    gone = retention.expired(taken, Keep(last=keep))
    kept = set(taken) - set(gone)
    assert len(kept) == min(keep, len(set(taken)))
    assert max(taken) in kept
    assert not gone or max(gone) < min(kept)


def test_never_backed_up_first_then_the_most_overdue_and_disabled_last() -> None:
    standings = [
        schedule.Standing(job("fresh"), NOW - timedelta(hours=1)),
        schedule.Standing(job("off", disabled=True), None),
        schedule.Standing(job("old"), NOW - timedelta(days=9)),
        schedule.Standing(job("never"), None),
    ]
    assert [each.job.host for each in schedule.in_order(standings, NOW)] == ["never", "old", "fresh", "off"]
    assert [each.host for each in schedule.due(standings, NOW, NOW)] == ["never", "old"]


def test_b27_a_job_exactly_one_period_old_is_due() -> None:
    assert schedule.is_due(schedule.Standing(job(period=60), NOW - timedelta(seconds=60)), NOW)


def test_b20_a_clock_in_the_past_holds_the_pass() -> None:
    assert schedule.clock_problem([], datetime(1970, 1, 1, tzinfo=timezone.utc))
    assert schedule.clock_problem([NOW + timedelta(days=1), None], NOW)
    assert schedule.clock_problem([NOW, None], NOW) is None


def test_b17_durations_keep_whole_days() -> None:
    assert schedule.spell(19897) == "5:31:37"
    assert schedule.spell(86400 + 62681) == "1d+17:24:41"


def test_the_queue_has_the_form_of_2014() -> None:
    taken = {"taken_at": "2026-11-23T11:00:00Z"}
    base = {"volume": "all", "label": "daily", "last_run": None}
    jobs = [
        {**base, "host": "old", "state": "NOT_FOUND", "last_snapshot": None, "age_seconds": None}
        | {"period_seconds": 86400, "due_in_seconds": 0},
        {**base, "host": "kimono", "state": "NOT_READY", "last_snapshot": taken, "age_seconds": 3600}
        | {"period_seconds": 86400, "due_in_seconds": 82800},
    ]
    lines = status.queue_table(jobs, NOW)
    assert lines[0].split() == ["INDEX", "LAST", "BACKUP", "AGE", "/CYCLE", "STATUS"]
    assert lines[1].endswith("/86400   NOT FOUND")
    assert lines[2].startswith("kimono-all-daily   ")
    assert lines[2].endswith("      3600/86400   NEXT RUN IN 23:00:00")


@pytest.mark.parametrize(
    ("code", "complete"),
    [(0, True), (24, True), (23, False), (12, False), (30, False), (255, False), (-15, False)],
)
def test_rsyncs_exit_codes(code: int, complete: bool) -> None:
    assert transfer.judge(code, "reason").complete is complete


def test_an_ipv6_address_gets_brackets() -> None:
    assert transfer.sources(job(), "fd00::1") == ["root@[fd00::1]:/"]


def test_idle_blinks_once_per_minute_after_success_and_failure() -> None:
    steps = led.pattern(ServerState.IDLE, 2, succeeded=True, trouble=True)
    assert [(each.green, each.red, each.seconds) for each in steps] == [
        (True, True, 0.3),
        (False, False, 0.6),
        (False, True, 0.3),
        (False, False, 0.6),
        (True, False, 0.3),
        (False, False, 0.3),
        (True, False, 0.3),
        (False, False, 0.3),
        (False, False, 1.0),
    ]


def test_down_is_a_long_red_and_preparing_keeps_the_last_sign() -> None:
    assert led.pattern(ServerState.DOWN, 0, False, False) == (
        led.Step(False, True, 2.0),
        led.Step(False, False, 1.0),
    )
    assert led.pattern(ServerState.PREPARING, 0, True, True) == ()


@pytest.mark.parametrize("name", PURE)
def test_arrows_point_one_way(name: str) -> None:
    source = (Path(flashback.__file__).parent / f"{name}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "flashback":
            assert {each.name for each in node.names} <= set(PURE)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("flashback."):
            assert str(node.module).split(".")[1] in PURE
        elif isinstance(node, ast.Import):
            assert not {each.name for each in node.names} & {"os", "subprocess", "socket", "time", "sqlite3"}
