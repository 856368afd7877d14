"""Turn one YAML file into a `Config`, or into the complete list of its mistakes.

The file is read as a tree of nodes, not as Python values: so every message has its line,
a key given twice is noticed, and a host called `no` stays a name instead of becoming a
boolean.  Settings resolve job -> volume -> host -> defaults; excludes add up instead.

Nothing here looks at the disk or the network beyond reading that one file.  The sacred
rule: what is not understood is refused, never ignored, since an ignored line is a backup
that is not made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from flashback.errors import ConfigError, UsageError
from flashback.model import Config, Job, Keep, Window, snapshot_time

DEFAULT_PATH = Path("/etc/flashback/flashback.yml")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+[smhdw])+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_%-]*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")
_RATE = re.compile(r"[1-9]\d*(\.\d+)?[KMG]")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = "|".join(DAYS)
_WINDOW = re.compile(
    rf"(?:(?P<first>{_DAY})(?:-(?P<last>{_DAY}))? +)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)"
)
_RSYNC_URL = re.compile(
    r"rsync://(?:[A-Za-z0-9._-]+@)?(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(?::\d+)?/[^/\s][^\0]*"
)

# Options that cannot touch what is already stored, nor change where, how or under whose rights rsync runs.
RSYNC_OPTIONS = frozenset(
    [
        "--acls",
        "--bwlimit",
        "--checksum",
        "--checksum-choice",
        "--compress",
        "--compress-choice",
        "--compress-level",
        "--exclude",
        "--filter",
        "--iconv",
        "--include",
        "--ipv4",
        "--ipv6",
        "--max-alloc",
        "--max-size",
        "--min-size",
        "--modify-window",
        "--no-acls",
        "--no-compress",
        "--no-devices",
        "--no-hard-links",
        "--no-sparse",
        "--no-specials",
        "--no-whole-file",
        "--no-xattrs",
        "--open-noatime",
        "--prune-empty-dirs",
        "--safe-links",
        "--skip-compress",
        "--sparse",
        "--timeout",
        "--whole-file",
    ]
)

WITH_VALUE = frozenset(
    [
        *("--bwlimit", "--checksum-choice", "--compress-choice", "--compress-level", "--exclude", "--filter"),
        *("--iconv", "--include", "--max-alloc", "--max-size", "--min-size", "--modify-window"),
        *("--skip-compress", "--timeout"),
    ]
)


class _BadValueError(ValueError):
    """A value that is not allowed; the text says what is wrong and what is allowed."""


Check = Callable[[yaml.Node], Any]


def load(path: Path) -> Config:
    """Return the configuration in that file; raise ConfigError with all of its mistakes."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"There is no configuration at {path}", "Write one, or name it with --config"
        ) from None
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The configuration {path} cannot be read: {error}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Return the configuration in that text; `path` is only used in messages."""
    reader = _Reader(str(path))
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError([f"{path}:{line}: not valid YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}:1: not valid YAML: {' '.join(str(error).split())}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}:1: not valid YAML: nested too deeply"]) from None
    if root is None or root.tag.endswith(":null"):
        raise ConfigError([f"{path}:1: the file is empty, at least data_dir is needed"])
    found = reader.top(root)
    if reader.problems:
        raise ConfigError([text for _, text in sorted(reader.problems, key=lambda item: item[0])])
    return Config(path=path, **found)


# --- single values -----------------------------------------------------------------------------------------


def seconds(text: str) -> int:
    """Return a duration such as `90s`, `10m` or `1d12h` in seconds; raise ValueError when it is none."""
    if not _DURATION.fullmatch(text):
        raise _BadValueError(
            f"`{text}` is not a duration, allowed are numbers with s, m, h, d or w, such as 90s or 1d12h"
        )
    return sum(int(part[:-1]) * UNITS[part[-1]] for part in re.findall(r"\d+[smhdw]", text))


def _scalar(node: yaml.Node, wanted: str) -> str:
    """Return the text of a plain value; a list, a mapping or nothing at all is refused."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        raise _BadValueError(f"{_kind(node)} is not allowed here, wanted is {wanted}")
    return str(node.value)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag.endswith(":null") else f"`{node.value}`"


def _text(node: yaml.Node) -> str:
    value = _scalar(node, "a text")
    if not value or "\0" in value:
        raise _BadValueError("an empty text is not allowed")
    return value


def _matching(pattern: re.Pattern[str], wanted: str) -> Check:
    def check(node: yaml.Node) -> str:
        value = _scalar(node, wanted)
        if not pattern.fullmatch(value):
            raise _BadValueError(f"`{value}` is not allowed, wanted is {wanted}")
        return value

    return check


def _path(node: yaml.Node) -> Path:
    return Path(_absolute(node))


def _absolute(node: yaml.Node) -> str:
    value = _text(node)
    if not value.startswith("/"):
        raise _BadValueError(f"`{value}` is not an absolute path, it must begin with /")
    if ".." in value.split("/"):
        raise _BadValueError(f"`{value}` must not contain ..")
    return value


def _duration(node: yaml.Node) -> int:
    value = seconds(_scalar(node, "a duration such as 10m or 1d"))
    if value <= 0:
        raise _BadValueError("a duration must be longer than nothing, such as 1s")
    return value


def _number(lowest: int, highest: int) -> Check:
    def check(node: yaml.Node) -> int:
        value = _scalar(node, "a whole number")
        if not re.fullmatch(r"[0-9]{1,9}", value) or not lowest <= int(value) <= highest:
            raise _BadValueError(
                f"`{value}` is not allowed, wanted is a whole number from {lowest} to {highest}"
            )
        return int(value)

    return check


def _boolean(node: yaml.Node) -> bool:
    value = _scalar(node, "true or false")
    # A quoted "N" or "false" is a text: taking it for a boolean once disabled what should run.
    if node.tag != "tag:yaml.org,2002:bool" or value not in ("true", "false"):
        raise _BadValueError(f"`{value}` is not a boolean, allowed are true and false without quotes")
    return value == "true"


def _texts(node: yaml.Node) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise _BadValueError(f"{_kind(node)} is not a list, wanted is [one, two]")
    return tuple(_text(item) for item in node.value)


def _addresses(node: yaml.Node) -> tuple[str, ...]:
    values = _texts(node)
    for value in values:
        if not _ADDRESS.fullmatch(value):
            raise _BadValueError(
                f"`{value}` is not an address, wanted is an IPv4 or IPv6 address or a name, without port"
            )
    if not values:
        raise _BadValueError("an empty list is not allowed, leave addresses out to use the host's own name")
    return values


def _keep(node: yaml.Node) -> Keep:
    """Return what to keep: a number of newest snapshots, or numbers by kind of period."""
    if isinstance(node, yaml.ScalarNode):
        return Keep(last=_number(1, 100_000)(node))
    if not isinstance(node, yaml.MappingNode):
        raise _BadValueError(f"{_kind(node)} is not allowed, wanted is a number or {{daily: 9, weekly: 6}}")
    allowed = [each.name for each in fields(Keep)]
    counts: dict[str, int] = {}
    for name, value in node.value:
        key = _scalar(name, "a kind of period")
        if key not in allowed:
            raise _BadValueError(f"`{key}` {_unknown(key, allowed)}")
        if key in counts:
            raise _BadValueError(f"`{key}` is given twice")
        counts[key] = _number(0, 100_000)(value)
    if not any(counts.values()):
        raise _BadValueError("nothing would be kept, wanted is at least one number above 0")
    return Keep(**counts)


def _windows(node: yaml.Node) -> tuple[Window, ...]:
    return tuple(_window(text) for text in _texts(node))


def _window(text: str) -> Window:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise _BadValueError(
            f"`{text}` is not a time of the week, wanted is `08:00-18:00` or `mon-fri 08:00-18:00`"
        )
    first = DAYS.index(found["first"]) if found["first"] else 0
    last = DAYS.index(found["last"]) if found["last"] else (first if found["first"] else 6)
    days = frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))
    return Window(days, _minute(found["start"]), _minute(found["end"]))


def _minute(text: str) -> int:
    """Return the minutes after midnight of a time of the day; 24:00 is the end of the day."""
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > 1440:
        raise _BadValueError(f"`{text}` is not a time of the day, wanted is 00:00 to 24:00")
    return hours * 60 + minutes


def _time_of_day(node: yaml.Node) -> int:
    value = _scalar(node, "a time of the day such as 03:00")
    if not re.fullmatch(r"\d\d:\d\d", value):
        raise _BadValueError(f'`{value}` is not a time of the day, wanted is one such as "03:00"')
    return _minute(value)


def _networks(node: yaml.Node) -> tuple[str, ...]:
    import ipaddress  # noqa: PLC0415 - the daemon can do without it where nobody uses this

    values = _texts(node)
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError:  # noqa: PERF203 - a handful of networks
            raise _BadValueError(
                f"`{value}` is not a network, wanted is one such as 192.168.1.0/24 or fd00::/8"
            ) from None
    return values


def _command(node: yaml.Node) -> tuple[str, ...]:
    if isinstance(node, yaml.ScalarNode):
        raise _BadValueError(
            f"{_kind(node)} is not a list, wanted is [/path/to/program, argument]: no shell reads it"
        )
    values = _texts(node)
    if not values or not values[0].startswith("/"):
        raise _BadValueError("the first word must be a program's absolute path")
    return values


def _ciphers(node: yaml.Node) -> tuple[str, ...]:
    values = _texts(node)
    for value in values:
        if not re.fullmatch(r"[a-z0-9@.-]+", value):
            raise _BadValueError(f"`{value}` is not a cipher, `ssh -Q cipher` lists them")
    return values


def _bytes(node: yaml.Node) -> int:
    value = _scalar(node, "a size such as 2G")
    if not _RATE.fullmatch(value):
        raise _BadValueError(f"`{value}` is not a size, wanted is a number with its unit, such as 500M or 2G")
    return int(float(value[:-1]) * {"K": 1000, "M": 1000**2, "G": 1000**3}[value[-1]])


def _source(node: yaml.Node) -> str:
    value = _text(node)
    if value.startswith("rsync://"):
        if not _RSYNC_URL.fullmatch(value) or ".." in value.split("/"):
            raise _BadValueError(
                f"`{value}` is not an rsync address, wanted is rsync://[user@]host[:port]/module[/path]"
            )
        return value
    return _absolute(node)


def _rsync_options(node: yaml.Node) -> tuple[str, ...]:
    values = _texts(node)
    for value in values:
        if value.split("=", 1)[0] not in RSYNC_OPTIONS:
            allowed = " ".join(sorted(RSYNC_OPTIONS))
            raise _BadValueError(f"`{value}` is not an rsync option that may be added, allowed are {allowed}")
        # A value as the next word would swallow one of the engine's own options.
        name, sign, given = value.partition("=")
        if name in WITH_VALUE and not given:
            raise _BadValueError(f"`{value}` lacks its value, wanted is {name}=...")
        if name not in WITH_VALUE and sign:
            raise _BadValueError(f"`{value}` takes no value, wanted is {name}")
    return values


SETTINGS: dict[str, Check] = {
    "source": _source,
    "period": _duration,
    "keep": _keep,
    "detect": _matching(re.compile("manifest|full"), "manifest or full"),
    "full_every": _duration,
    "timeout": _duration,
    "stall_timeout": _duration,
    "late_after": _duration,
    "away_limit": _duration,
    "always_on": _boolean,
    "blackouts": _windows,
    "max_rtt_ms": _number(1, 60_000),
    "only_networks": _networks,
    "before": _command,
    "after": _command,
    "accept_partial": _boolean,
    "guard": _boolean,
    "guard_percent": _number(1, 100),
    "excludes": _texts,
    "exclude_larger_than": _matching(_RATE, "a size with its unit, such as 500M or 2G"),
    "exclude_file": _matching(re.compile(r"[^/\s]+"), "a file's name without blanks or slashes"),
    "whole_file": _boolean,
    "one_file_system": _boolean,
    "bandwidth_limit": _matching(_RATE, "a rate per second with its unit, such as 500K or 2M"),
    "disabled": _boolean,
    "local": _boolean,
    "removable": _boolean,
    "rsync_options": _rsync_options,
}
# What only a single job can have.
JOB: dict[str, Check] = {"from": _matching(_NAME, "the label of another job of this volume")}
TOP: dict[str, Check] = {
    "data_dir": _path,
    "disk_id": _matching(re.compile(r"\S+"), "the content of .flashback/id"),
    "run_dir": _path,
    "smart": _path,
    "container": _path,
    "interval": _duration,
    "concurrency": _number(1, 8),
}
CLOCK: dict[str, Check] = {"wait_for_sync": _boolean}
SSH: dict[str, Check] = {"key": _path, "known_hosts": _path, "restore_key": _path, "ciphers": _ciphers}
SPACE: dict[str, Check] = {
    "reserve_percent": _number(0, 90),
    "reserve_inodes_percent": _number(0, 90),
    "floor": _number(1, 1000),
}
VERIFY: dict[str, Check] = {
    "per_night": _bytes,
    "rate": _bytes,
    "at": _time_of_day,
    "drill_every": _duration,
    "drill_files": _number(1, 10_000),
}
LED: dict[str, Check] = {"green": _text, "red": _text}
# Sections of the file with the names that their keys have in `Config`, where those differ.
SECTIONS: dict[str, tuple[dict[str, Check], dict[str, str]]] = {
    "clock": (CLOCK, {}),
    "ssh": (SSH, {"key": "ssh_key"}),
    "space": (SPACE, {}),
    "verify": (VERIFY, {"per_night": "verify_bytes", "rate": "verify_rate", "at": "verify_at"}),
    "led": (LED, {"green": "led_green", "red": "led_red"}),
}
HOST: dict[str, Check] = {
    "addresses": _addresses,
    "port": _number(1, 65535),
    "user": _matching(_USER, "a user's name"),
    "mac": _matching(
        re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"), "a hardware address such as 00:11:22:33:44:55"
    ),
}


# --- the tree ----------------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """Walks the nodes of one file and gathers every problem with its line."""

    file: str
    problems: list[tuple[int, str]] = field(default_factory=list)

    def bad(self, node: yaml.Node, key: str, text: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append((line, f"{self.file}:{line}: {key or 'file'}: {text}"))

    def items(self, node: yaml.Node, key: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the entries of a mapping by name; nothing at all counts as an empty mapping."""
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.bad(node, key, f"{_kind(node)} is not allowed here, wanted is a mapping of names to values")
            return {}
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self.bad(name, key, "a key must be a plain name")
            elif name.value in found:
                first = found[name.value][0].start_mark.line + 1
                self.bad(name, _join(key, name.value), f"is given twice, the first time in line {first}")
            else:
                found[name.value] = (name, value)
        return found

    def fields(
        self, node: yaml.Node, key: str, checks: dict[str, Check], groups: tuple[str, ...] = ()
    ) -> tuple[dict[str, Any], dict[str, yaml.Node]]:
        """Return the checked values and, for the keys in `groups`, the nodes below them."""
        values: dict[str, Any] = {}
        nodes: dict[str, yaml.Node] = {}
        allowed = [*checks, *groups]
        for name, (at, value) in self.items(node, key).items():
            if name in groups:
                nodes[name] = value
            elif name not in checks:
                self.bad(at, _join(key, name), _unknown(name, allowed))
            else:
                try:
                    values[name] = checks[name](value)
                except _BadValueError as problem:
                    self.bad(value, _join(key, name), str(problem))
        return values, nodes

    def names(self, node: yaml.Node, key: str) -> dict[str, yaml.Node]:
        """Return the entries of a mapping whose keys become directories on the disk."""
        folded: dict[str, str] = {}
        good: dict[str, yaml.Node] = {}
        for name, (at, value) in self.items(node, key).items():
            problem = name_problem(name)
            twin = folded.get(name.casefold())
            if problem is None and twin is not None:
                problem = (
                    f"differs from `{twin}` only in capitals, both would share one directory on some disks"
                )
            if problem:
                self.bad(at, _join(key, name), problem)
                continue
            folded[name.casefold()] = name
            good[name] = value
        return good

    def top(self, root: yaml.Node) -> dict[str, Any]:
        groups = ("clock", "ssh", "space", "verify", "led", "defaults", "hosts")
        found, nodes = self.fields(root, "", TOP, groups)
        given = {name.value for name, _ in root.value} if isinstance(root, yaml.MappingNode) else {"data_dir"}
        if "data_dir" not in given:
            self.bad(root, "data_dir", "is missing, wanted is the mount point of the backup disk")
        for name, (checks, renamed) in SECTIONS.items():
            if name in nodes:
                values, _ = self.fields(nodes[name], name, checks)
                found.update({renamed.get(key, key): value for key, value in values.items()})
        defaults: dict[str, Any] = {}
        if "defaults" in nodes:
            defaults, _ = self.fields(nodes["defaults"], "defaults", SETTINGS)
        if "hosts" in nodes:
            found["jobs"] = tuple(self.hosts(nodes["hosts"], defaults))
        return found

    def hosts(self, node: yaml.Node, defaults: dict[str, Any]) -> list[Job]:
        jobs: list[Job] = []
        for host, at in self.names(node, "hosts").items():
            key = f"hosts.{host}"
            values, nodes = self.fields(at, key, {**HOST, **SETTINGS}, ("volumes",))
            connection = {name: values.pop(name) for name in HOST if name in values}
            connection.setdefault("addresses", (host,))
            if "volumes" not in nodes:
                self.bad(at, key, "has no volumes, wanted is at least one below `volumes`")
                continue
            for volume, below in self.names(nodes["volumes"], f"{key}.volumes").items():
                jobs += self.volume(below, (host, volume), connection, [values, defaults])
        return jobs

    def volume(
        self, node: yaml.Node, who: tuple[str, str], connection: dict[str, Any], outer: list[dict[str, Any]]
    ) -> list[Job]:
        host, volume = who
        key = f"hosts.{host}.volumes.{volume}"
        values, nodes = self.fields(node, key, SETTINGS, ("jobs",))
        if "jobs" not in nodes:
            self.bad(
                node,
                key,
                "has no jobs, wanted is at least one below `jobs`, such as `daily: {period: 1d, keep: 9}`",
            )
            return []
        jobs: list[Job] = []
        labels = self.names(nodes["jobs"], f"{key}.jobs")
        for label, at in labels.items():
            own, _ = self.fields(at, f"{key}.jobs.{label}", {**SETTINGS, **JOB})
            settings = _resolve([own, values, *outer])
            if host == "localhost":
                settings.setdefault("local", True)
            problem = _contradiction(settings, label, labels)
            if problem:
                self.bad(at, f"{key}.jobs.{label}", problem)
                continue
            settings["copy_of"] = settings.pop("from", None)
            jobs.append(Job(host=host, volume=volume, label=label, **connection, **settings))
        return jobs


def _contradiction(settings: dict[str, Any], label: str, labels: Iterable[str]) -> str | None:
    """Return what is missing in a job's settings, or cannot go together."""
    source, original = settings.get("source"), settings.get("from")
    if source is None:
        return "has no source, wanted is the path to back up, here or at its volume"
    if original is not None and (original == label or original not in labels):
        others = ", ".join(name for name in labels if name != label) or "none"
        return f"is taken `from: {original}`, which is no other job of this volume (there: {others})"
    if settings.get("local") and source.startswith("rsync://"):
        return "is local and has a source rsync://, leave one of them out"
    return None


def advice(loaded: Config) -> list[str]:
    """Return what is allowed but has no effect, a sentence for each job and setting."""
    said = []
    for job in loaded.jobs:
        if job.blackouts and not job.always_on:
            said.append(f"{job.name}: blackouts count only where always_on is true")
        if job.local and (job.mac or job.only_networks or job.max_rtt_ms):
            said.append(f"{job.name}: is local, so mac, only_networks and max_rtt_ms have no effect")
        if not job.guard and job.guard_percent != Job.guard_percent:
            said.append(f"{job.name}: guard is off, so guard_percent has no effect")
    return said


def name_problem(name: str) -> str | None:
    """Return why a host, volume or label cannot bear this name, or None when it can."""
    if not _NAME.fullmatch(name) or ".." in name:
        return "is not a usable name, allowed are letters, digits, dots, dashes and underscores, no dot first"
    if (
        name.split(".", maxsplit=1)[0] == "incoming"
        or name.startswith(("expired-", "suspect-"))
        or snapshot_time(name)
    ):
        return "is reserved for the engine's own directories, choose another name"
    if len(name) > 100:
        return "is longer than 100 characters"
    return None


def _resolve(levels: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of a job from its levels, the nearest first; excludes add up."""
    merged: dict[str, Any] = {}
    for level in reversed(levels):
        merged.update(level)
    # The nearest first: rsync takes the first pattern that matches.
    excludes = [pattern for level in levels for pattern in level.get("excludes", ())]
    merged["excludes"] = tuple(dict.fromkeys(excludes))
    return merged


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _unknown(name: str, allowed: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only for mistakes

    close = difflib.get_close_matches(name, allowed, n=1)
    guess = f" (did you mean `{close[0]}`?)" if close else ""
    return f"is unknown{guess}, allowed are {', '.join(sorted(allowed))}"
