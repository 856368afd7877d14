"""Read the configurations of the flashback of 2014 and write them anew.

Two forms are read: one JSON file with hosts, volumes and jobs, and the older pair of
`flashback.conf` (key = value) and `flashback.jobs` (one job a line) with its override files
`TOP/config`, `TOP/HOST/config`, `TOP/HOST/VOLUME/config` and `TOP/HOST/VOLUME/excludes`.

The sacred rule: what cannot be carried over is said, a line for each, never dropped
silently; and what is written is a configuration that loads.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flashback import config
from flashback.errors import ConfigError, FlashbackError
from flashback.legacy_options import Translated, translate

CYCLES = {"cycleDay": 86400, "cycleHour": 3600, "cycleMin": 60, "cycleSec": 1}
_DEFAULT_CYCLE = 86400
_DEFAULT_KEEP = 9
SETTINGS = frozenset(
    {*CYCLES, "src", "fqdn", "rsyncOpts", "tool", "keepCount", "disabled", "removable", "excludes"}
)
# What the override files of 2014 could say.
OVERRIDES = SETTINGS - {"fqdn", "removable", "excludes"} | {"label"}
_YES = ("yes", "y", "true", "1")
_NO = ("no", "n", "false", "0", "")


@dataclass
class OldJob:
    """One job of an old configuration with the settings that held for it.

    `origin` and `origins` are for messages: where the job stands, and where each of its settings does.
    """

    host: str
    volume: str
    label: str
    settings: dict[str, Any]
    origin: str
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> tuple[str, str, str]:
        """Return host, volume and label."""
        return self.host, self.volume, self.label


@dataclass
class Old:
    """An old configuration as it was read; `comments` are for hosts, volumes and jobs, by their names."""

    top: str
    jobs: list[OldJob] = field(default_factory=list)
    comments: dict[tuple[str, ...], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_json: bool = False
    """In this form a longer unit beat a nearer level, any text counted as yes, and nothing had a default."""


@dataclass
class Imported:
    """What became of an old configuration: the new one as text, and what a person has to look at."""

    text: str = ""
    notes: list[str] = field(default_factory=list)


def convert(path: Path, trees: Sequence[Path] = ()) -> Imported:
    """Return the new configuration for an old one; raise FlashbackError when it cannot be read.

    `trees` are further folders in which the override files of 2014 are looked for, as they are in topDir.
    """
    text = _read(path)
    old = _from_json(text, path) if text.lstrip().startswith("{") else _from_pairs(text, path, trees)
    return Imported(_checked(_Writer(old).text(path), path), old.notes)


def _checked(text: str, path: Path) -> str:
    """Return the new configuration when it loads."""
    try:
        config.parse(text, path)
    except ConfigError as error:
        raise FlashbackError(
            f"{path} cannot be taken over as it is: {error.problems[0].partition(': ')[2]}",
            "Mend the old configuration and import it again",
        ) from None
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise FlashbackError(f"The old configuration {path} cannot be read: {error}") from None


# --- the JSON form -----------------------------------------------------------------------------------------


def _from_json(text: str, path: Path) -> Old:
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise FlashbackError(f"{path} is no valid JSON: {error}", "Mend it and import it again") from None
    whole = _mapping(found, "global", "")
    old = Old(str(whole.get("dataDir", "/flashback")), is_json=True)
    old.notes += [f"{name}: is given twice at one place, the last one counts" for name in twice]
    for key, value in whole.items():
        if key in SETTINGS:
            old.notes.append(f"global.{key}: never counted there ({value}), left out; say it in `defaults`")
        elif key not in ("dataDir", "comment"):
            old.notes.append(f"global.{key}: is not needed any more ({value})")
    strange = [key for key in found if key not in ("global", "defaults", "hosts", "comment")]
    old.notes += [f"{key}: was never read, left out" for key in strange]
    defaults = ("defaults", _settings_of(_mapping(found, "defaults", ""), "defaults", (), old))
    for host, at in _mapping(found, "hosts", "").items():
        where = f"hosts.{host}"
        levels = [defaults, (where, _settings_of(at, where, (host,), old))]
        for volume, below in _mapping(at, "volumes", where).items():
            inner = f"{where}.volumes.{volume}"
            deeper = [*levels, (inner, _settings_of(below, inner, (host, volume), old))]
            for label, own in _mapping(below, "jobs", inner).items():
                origin = f"{inner}.jobs.{label}"
                last = (origin, _settings_of(own, origin, (host, volume, label), old))
                old.jobs.append(_resolved(OldJob(host, volume, label, {}, origin), [*deeper, last], old))
    return old


def _mapping(above: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = above.get(key, {})
    if not isinstance(found, dict):
        raise FlashbackError(
            f"{f'{where}.' if where else ''}{key} is no mapping of names to values",
            "Mend it and import it again",
        )
    return found


def _settings_of(level: Any, where: str, who: tuple[str, ...], old: Old) -> dict[str, Any]:
    """Return the settings given on one level; note those that nobody knows."""
    if not isinstance(level, dict):
        raise FlashbackError(f"{where} is no mapping of names to values", "Mend it and import it again")
    if level.get("comment"):
        old.comments[who] = str(level["comment"])
    below = {0: (), 1: ("volumes",), 2: ("jobs",)}.get(len(who), ())
    for key in level:
        if key not in SETTINGS and key != "comment" and key not in below:
            old.notes.append(f"{where}.{key}: is unknown, left out")
    return {key: value for key, value in level.items() if key in SETTINGS}


def _resolved(job: OldJob, levels: Sequence[tuple[str, Mapping[str, Any]]], old: Old) -> OldJob:
    """Give a job what holds for it: the nearest level wins, and its period as a whole."""
    given: dict[str, Any] = {}
    for where, level in levels:
        if CYCLES.keys() & level.keys():
            for key in CYCLES:
                job.settings.pop(key, None)
        job.settings.update(level)
        job.origins.update(dict.fromkeys(level, where))
        given.update(level)
    if old.is_json and _seconds(given) != _seconds(job.settings):
        before, now = _seconds(given), _seconds(job.settings)
        old.notes.append(
            f"{job.origin}: its period is {_period(now or 0)} as its nearest setting says; "
            f"the old engine took {_period(before or 0)}, for a longer unit further above won"
        )
    return job


# --- the pairs of 2014 -------------------------------------------------------------------------------------


def _from_pairs(text: str, path: Path, trees: Sequence[Path]) -> Old:
    found = dict(_pairs(text, path))
    top = found.pop("topDir", ("/flashback", ""))[0]
    old = Old(top)
    for key in [key for key in found if key not in OVERRIDES]:
        value, where = found.pop(key)
        known = key in ("helper", "logFile", "serverOpts")
        old.notes.append(
            f"{where}: {key} is {'not needed any more' if known else 'unknown'} ({value}), left out"
        )
    table = path.with_name("flashback.jobs")
    places = [Path(top), *trees]
    # The defaults in force before the file was read.
    defaults = [(where, {key: value}) for key, (value, where) in found.items()]
    for number, line in enumerate(_read(table).splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            _row(words, f"{table}:{number}", defaults, places, old)
    return old


def _row(
    words: list[str], origin: str, defaults: list[tuple[str, dict[str, str]]], places: list[Path], old: Old
) -> None:
    """Add the job of one line of the table."""
    given: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in SETTINGS | {"host", "volume", "label"} or key == "excludes":
            old.notes.append(f"{origin}: `{word}` is unknown, left out")
            continue
        if "=" in value:
            old.notes.append(
                f"{origin}: the old engine did not read `{word}` for its second =; now it counts"
            )
        given[key] = value
    host, volume = given.pop("host", ""), given.pop("volume", "")
    if not host or not volume or "src" not in given:
        old.notes.append(f"{origin}: has no host, volume or src, left out")
        return
    job = OldJob(host, volume, "", {}, origin)
    levels = [*defaults, (origin, given), *_overrides(job, places, old)]
    _resolved(job, levels, old)
    job.label = str(job.settings.pop("label", "daily"))
    excludes = _first_file(places, host.partition(".")[0], volume, "excludes")
    if excludes is not None:
        job.settings["excludes"] = list(_patterns(_read(excludes)))
        job.origins["excludes"] = str(excludes)
    old.jobs.append(job)


def _overrides(job: OldJob, places: Sequence[Path], old: Old) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what the override files say, the general one first: they came after the table and won."""
    short = job.host.partition(".")[0]
    for parts in ((), (short,), (short, job.volume)):
        file = _first_file(places, *parts, "config")
        for key, (value, where) in _pairs(_read(file), file) if file else ():
            if key in OVERRIDES:
                yield where, {key: value}
            elif (note := f"{where}: {key} is unknown, left out") not in old.notes:
                old.notes.append(note)


def _first_file(places: Sequence[Path], *parts: str) -> Path | None:
    return next((file for place in places if (file := place.joinpath(*parts)).is_file()), None)


def _pairs(text: str, path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each key with its value and its place."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        key, sign, value = (part.strip() for part in words.partition("="))
        if not sign:
            raise FlashbackError(
                f"{path}:{number}: `{words}` is not key = value", "Mend it and import it again"
            )
        if len(value) > 1 and value[0] == value[-1] and value.count(value[0]) == 2 and value[0] in "\"'":
            value = value[1:-1]
        yield key, (value, f"{path}:{number}")


def _patterns(text: str) -> Iterator[str]:
    """Yield the patterns of a file as rsync's --exclude-from reads it."""
    for line in text.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith(("#", ";")):
            yield pattern.removeprefix("- ")


# --- values ------------------------------------------------------------------------------------------------


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _seconds(settings: Mapping[str, Any]) -> int | None:
    """Return the period: of several units the first that is not nothing; None when none says anything."""
    for key, unit in CYCLES.items():
        amount = _number(settings.get(key, 0))
        if amount is None or amount * unit >= 1:
            return None if amount is None else int(amount * unit)
    return None


def _period(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


# --- writing -----------------------------------------------------------------------------------------------


class _Writer:
    """Builds the new configuration and notes what does not fit into it."""

    def __init__(self, old: Old) -> None:
        self._old = old
        self._note = old.notes.append
        self._hosts: dict[str, dict[str, Any]] = {}
        self._short = self._shortened([job.host for job in old.jobs])

    def text(self, path: Path) -> str:
        """Return the new configuration with its comments."""
        for job in self._old.jobs:
            self._add(job)
        self._drop_orphans()
        lines = [f"# Taken over from {path.name}.", f"data_dir: {_scalar(self._old.top)}"]
        if not self._hosts:
            self._note("hosts: there is no job that can be taken over")
            return "\n".join(lines) + "\n"
        lines.append("hosts:")
        for host, made in self._hosts.items():
            lines += [*self._comment(1, made["old"]), f"  {_scalar(host)}:"]
            lines += [
                f"    {key}: {_scalar(made[key])}" for key in ("addresses", "port", "user") if key in made
            ]
            lines.append("    volumes:")
            for volume, jobs in made["volumes"].items():
                lines += self._comment(3, made["old"], volume)
                lines += [f"      {_scalar(volume)}:", "        jobs:"]
                for label, settings in jobs.items():
                    lines += [*self._comment(5, made["old"], volume, label), f"          {_scalar(label)}:"]
                    lines += [f"            {key}: {_scalar(value)}" for key, value in settings.items()]
        return "\n".join(lines) + "\n"

    def _drop_orphans(self) -> None:
        """Leave out the second-level jobs whose first level was left out."""
        for host, made in self._hosts.items():
            for volume, jobs in made["volumes"].items():
                for label in [each for each in jobs if jobs[each].get("from", each) not in jobs]:
                    self._note(f"{host}/{volume}/{label}: what it copies is left out, so it is too")
                    del jobs[label]
            made["volumes"] = {volume: jobs for volume, jobs in made["volumes"].items() if jobs}
        self._hosts = {host: made for host, made in self._hosts.items() if made["volumes"]}

    def _comment(self, depth: int, *who: str) -> list[str]:
        said = self._old.comments.get(who, "")
        return [f"{'  ' * depth}# {' '.join(line.split())}" for line in said.splitlines() if line.strip()]

    def _shortened(self, hosts: Sequence[str]) -> dict[str, str]:
        """Return the name of each host: the folder of the old engine, which cut names at the first dot."""
        made: dict[str, str] = {}
        for host in dict.fromkeys(hosts):
            short = host.partition(".")[0]
            twins = sorted({each for each in hosts if each.partition(".")[0] == short and each != host})
            made[host] = host if twins else short
            if twins:
                self._note(
                    f"hosts.{host}: shared the folder {short} with {', '.join(twins)}; now each has its own. "
                    f"What lies in {self._old.top}/{short} is of both: look at it before it is adopted"
                )
        return made

    def _add(self, job: OldJob) -> None:
        host = self._short[job.host]
        for name in (host, job.volume, job.label):
            problem = config.name_problem(name)
            if problem:
                self._note(f"{job.origin}: `{name}` {problem}; the job is left out")
                return
        made = self._hosts.get(host, {"old": job.host, "volumes": {}})
        if job.label in made["volumes"].get(job.volume, {}):
            self._note(
                f"{job.origin}: {host}/{job.volume}/{job.label} is there already; this one is left out"
            )
            return
        source = self._source(job)
        if source is None or not self._connected(job, made, source):
            return
        settings = {key: value for key, value in source.items() if key in ("source", "from", "local")}
        settings |= self._settings(job, copied="from" in source)
        options = Translated() if "from" in source else self._options(job)
        if options.excludes:
            settings["excludes"] = [*settings.get("excludes", []), *options.excludes]
        settings |= options.settings
        if (
            options.port is not None
            and "address" in source
            and made.setdefault("port", options.port) != options.port
        ):
            self._note(f"{job.origin}: also had the port {options.port}, used is {made['port']}")
        self._hosts[host] = made
        made["volumes"].setdefault(job.volume, {})[job.label] = settings

    # --- where from ----------------------------------------------------------------------------------------

    def _source(self, job: OldJob) -> dict[str, Any] | None:
        """Return the source and how it is reached, or None with a note when there is none."""
        tool, text = job.settings.get("tool"), str(job.settings.get("src") or "")
        if not text:
            self._note(f"{job.origin}: it has no src, the job is left out")
            return None
        if tool is None and self._old.is_json:
            self._note(f"{job.origin}: it has no tool, so the old engine never ran it; rsync is used now")
        elif tool not in (None, "rsync", "cp"):
            self._note(f"{job.origin}: its tool {tool} is unknown, the job is left out")
            return None
        below = Path(text).is_relative_to(self._old.top) and text != self._old.top
        if tool == "cp" and below:
            return self._copied(job, text)
        if tool == "cp":
            self._note(f"{job.origin}: tool cp from {text} is done by rsync now")
        return self._fetched(job, text)

    def _copied(self, job: OldJob, text: str) -> dict[str, Any] | None:
        """Return the other label that a second-level job is taken from."""
        parts = Path(text).relative_to(self._old.top).parts
        short = job.host.partition(".")[0]
        if len(parts) == 3 and parts[:2] == (short, job.volume) and parts[2].endswith(".1"):
            original = parts[2].removesuffix(".1")
            twin = next(
                (each for each in self._old.jobs if each.name == (job.host, job.volume, original)), None
            )
            found = (
                None
                if twin is None or twin is job
                else self._fetched(twin, str(twin.settings.get("src", "")))
            )
            if found is not None:
                return {"source": found["source"], "from": original}
        self._note(
            f"{job.origin}: it copies {text}, which no job of {job.host}/{job.volume} makes; "
            "the job is left out"
        )
        return None

    def _fetched(self, job: OldJob, text: str) -> dict[str, Any] | None:
        """Split user@host:/path."""
        found = re.fullmatch(
            r"(?:(?P<user>[^@/:]+)@)?(?P<host>\[[^\]/]+\]|[^:/]*):(?P<path>.*)", text, re.DOTALL
        )
        if text.startswith("rsync://"):
            return {"source": text}
        if found and found["path"].startswith(":"):
            user = f"{found['user']}@" if found["user"] else ""
            return {"source": f"rsync://{user}{found['host']}/{found['path'][1:]}"}
        path = found["path"] if found else text
        if not path.startswith("/") or ".." in path.split("/"):
            self._note(f"{job.origin}: {text} is no absolute path without .., the job is left out")
            return None
        if found is None:
            return {"source": path, "local": True}
        return {"source": path, "user": found["user"] or "root", "address": found["host"].strip("[]")}

    def _connected(self, job: OldJob, made: dict[str, Any], source: Mapping[str, Any]) -> bool:
        """Give the host a job's address and user; False when the job is of another machine or user."""
        text = str(job.settings.get("src", ""))
        path = str(source["source"])
        if "from" not in source and not path.endswith("/") and not any(sign in path for sign in "*?["):
            self._note(
                f"{job.origin}: {text} has no slash at its end; old snapshots begin with the folder "
                f"{path.rpartition('/')[2]}, new ones with what is in it"
            )
        if "address" not in source:
            return True
        address, user = str(source["address"]), str(source["user"])
        fqdn = str(job.settings.get("fqdn") or address)
        known = made.get("addresses")
        if known and not {each.partition(".")[0] for each in known} & {address.partition(".")[0]}:
            self._note(
                f"{job.origin}: is fetched from {address}, the host's other jobs from {known[0]}; "
                "the job is left out, make a host of its own for it"
            )
            return False
        if made.setdefault("user", user) != user:
            self._note(
                f"{job.origin}: logs in as {user}, the host's other jobs as {made['user']}; "
                "the job is left out, make a host of its own for it"
            )
            return False
        more = [address] if fqdn == "localhost" else [address, fqdn]
        made["addresses"] = list(dict.fromkeys([*(known or []), *more]))
        return True

    # --- the rest ------------------------------------------------------------------------------------------

    def _settings(self, job: OldJob, *, copied: bool) -> dict[str, Any]:
        """Return the settings of a job; one that copies another transfers nothing, so has fewer."""
        new: dict[str, Any] = {}
        seconds = _seconds(job.settings)
        if seconds is None:
            given = [key for key in CYCLES if key in job.settings]
            if given or self._old.is_json:
                self._note(f"{job.origin}: its period is nothing or no number; 1d is used")
            seconds = _DEFAULT_CYCLE
        new["period"] = _period(seconds)
        count = _number(job.settings.get("keepCount", _DEFAULT_KEEP))
        if count is None or count != int(count) or not 1 <= count <= 100_000:
            self._note(
                f"{job.origin}: keepCount {job.settings['keepCount']} is no number of snapshots; "
                f"{_DEFAULT_KEEP} is used"
            )
            count = _DEFAULT_KEEP
        new["keep"] = int(count)
        if not copied and (patterns := self._excludes(job)):
            new["excludes"] = patterns
        for flag in ("disabled",) if copied else ("disabled", "removable"):
            if self._yes(job, flag):
                new[flag] = True
        return new

    def _excludes(self, job: OldJob) -> list[str]:
        patterns = job.settings.get("excludes") or []
        if isinstance(patterns, str):
            patterns = [patterns]
        if not isinstance(patterns, list):
            self._note(f"{job.origin}: excludes is no list, left out: {patterns}")
            return []
        return [str(pattern) for pattern in patterns if pattern != ""]

    def _yes(self, job: OldJob, flag: str) -> bool:
        value = job.settings.get(flag, False)
        text = str(value).strip().lower()
        if value is None or text in _NO:
            if isinstance(value, str) and value and self._old.is_json:
                self._note(f'{job.origin}: {flag} "{value}" counted as yes for the old engine; now it is no')
            return False
        if text not in _YES:
            taken = "yes" if self._old.is_json else "no"
            self._note(f"{job.origin}: {flag} {value} is neither yes nor no; it counts as {taken}, as before")
            return self._old.is_json
        return True

    def _options(self, job: OldJob) -> Translated:
        """Carry over what the user gave to rsync."""
        text = str(job.settings.get("rsyncOpts") or "")
        try:
            words = shlex.split(text)
        except ValueError:
            self._note(f"{job.origin}: rsyncOpts cannot be read, left out: {text}")
            return Translated()
        made = translate(words)
        for word, reason in made.refused:
            self._note(f"{job.origin}: the rsync option {word} {reason}, left out")
        return made


def _scalar(value: object) -> str:
    """Return a value as YAML on one line."""
    made = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return made.removesuffix("\n").removesuffix("\n...")
