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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flashback import config
from flashback.errors import ConfigError, FlashbackError

CYCLES = {"cycleDay": 86400, "cycleHour": 3600, "cycleMin": 60, "cycleSec": 1}
# Options that the engine uses anyway, or whose effect it has.
NEEDLESS = frozenset(
    [
        *("-v", "-vv", "-q", "-a", "-l", "-al", "-E", "-H", "-A", "-X", "-S", "-z", "-h"),
        *("--archive", "--links", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids"),
        *(
            "--one-file-system",
            "--delete",
            "--delete-excluded",
            "--stats",
            "--progress",
            "--verbose",
            "--quiet",
        ),
        "--human-readable",
    ]
)
KNOWN = frozenset(
    [
        *CYCLES,
        "src",
        "fqdn",
        "rsyncOpts",
        "tool",
        "keepCount",
        "disabled",
        "removable",
        "excludes",
        "comment",
        "label",
    ]
)


@dataclass
class OldJob:
    """One job of an old configuration with the settings that held for it; `origin` is for messages."""

    host: str
    volume: str
    label: str
    settings: dict[str, Any]
    origin: str


@dataclass
class Imported:
    """What became of an old configuration: the new one as text, and what a person has to look at."""

    text: str = ""
    notes: list[str] = field(default_factory=list)


def convert(path: Path) -> Imported:
    """Return the new configuration for an old one; raise FlashbackError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise FlashbackError(f"The old configuration {path} cannot be read: {error}") from None
    made = Imported()
    if text.lstrip().startswith("{"):
        top, jobs = _from_json(text, path, made.notes)
    else:
        top, jobs = _from_pairs(text, path, made.notes)
    tree = _Writer(made.notes).tree(top, jobs)
    made.text = f"# Taken over from {path}. Look at what could not be carried over.\n" + yaml.safe_dump(
        tree, sort_keys=False, default_flow_style=None, width=110
    )
    try:
        config.parse(made.text, path)
    except ConfigError as error:
        raise FlashbackError(
            f"{path} cannot be taken over as it is: {error.problems[0].partition(': ')[2]}",
            "Mend the old configuration and import it again",
        ) from None
    return made


# --- the JSON form -----------------------------------------------------------------------------------------


def _from_json(text: str, path: Path, notes: list[str]) -> tuple[str, list[OldJob]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise FlashbackError(f"{path} is no valid JSON: {error}", "Mend it and import it again") from None
    top = found.get("global", {})
    notes += [f"global.{key}: not needed any more ({top[key]})" for key in top if key != "dataDir"]
    strange = sorted(found.keys() - {"global", "defaults", "hosts", "comment"})
    notes += [f"{key}: was never used, left out" for key in strange]
    jobs = []
    for host, at in found.get("hosts", {}).items():
        for volume, below in at.get("volumes", {}).items():
            for label, own in below.get("jobs", {}).items():
                origin = f"hosts.{host}.volumes.{volume}.jobs.{label}"
                levels = [found.get("defaults", {}), at, below, own]
                jobs.append(OldJob(host, volume, label, _nearest(levels, origin, notes), origin))
    return str(top.get("dataDir", "/srv/backup")), jobs


def _nearest(levels: list[Mapping[str, Any]], origin: str, notes: list[str]) -> dict[str, Any]:
    """Return what holds for a job: the nearest level wins, and its period as a whole."""
    settings: dict[str, Any] = {}
    for level in levels:
        given = {key: value for key, value in level.items() if key not in ("volumes", "jobs")}
        if CYCLES.keys() & given.keys():
            # The old engine looked for cycleDay on all levels first: a day above beat an hour here.
            for key in CYCLES:
                settings.pop(key, None)
        settings.update(given)
    notes += [f"{origin}: {key} is unknown, left out" for key in sorted(settings.keys() - KNOWN)]
    return settings


# --- the pairs of 2014 -------------------------------------------------------------------------------------


def _from_pairs(text: str, path: Path, notes: list[str]) -> tuple[str, list[OldJob]]:
    defaults = _pairs(text, path)
    top = str(defaults.pop("topDir", "/flashback"))
    needless = [key for key in ("helper", "logFile") if key in defaults]
    notes += [f"{path}: {key} is not needed any more ({defaults.pop(key)})" for key in needless]
    table = path.with_name("flashback.jobs")
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FlashbackError(f"The list of jobs beside {path} cannot be read: {error}") from None
    jobs = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        origin = f"{table}:{number}"
        given = dict(word.partition("=")[::2] for word in words)
        host, volume = given.pop("host", ""), given.pop("volume", "")
        if not host or not volume or "src" not in given:
            notes.append(f"{origin}: has no host, volume or src, left out")
            continue
        jobs.append(
            _overridden(Path(top), OldJob(host, volume, "", {**defaults, **given}, origin), given, notes)
        )
    return top, jobs


def _overridden(top: Path, job: OldJob, given: Mapping[str, str], notes: list[str]) -> OldJob:
    """Apply the override files of a job: they came after the table and won."""
    levels: list[Mapping[str, Any]] = [job.settings]
    for folder in (top, top / job.host, top / job.host / job.volume):
        file = folder / "config"
        if file.is_file():
            levels.append(_pairs(file.read_text(encoding="utf-8"), file))
    job.settings = _nearest(levels, job.origin, notes)
    excludes = top / job.host / job.volume / "excludes"
    if excludes.is_file():
        patterns = [line.strip() for line in excludes.read_text(encoding="utf-8").splitlines()]
        job.settings["excludes"] = [line for line in patterns if line and not line.startswith(("#", ";"))]
    job.label = str(job.settings.get("label", given.get("label", "daily")))
    return job


def _pairs(text: str, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        key, sign, value = (part.strip() for part in words.partition("="))
        if not sign:
            raise FlashbackError(
                f"{path}:{number}: `{words}` is not key = value", "Mend it and import it again"
            )
        found[key] = value.strip("\"'")
    return found


# --- writing -----------------------------------------------------------------------------------------------


class _Writer:
    """Builds the new tree and notes what does not fit into it."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def tree(self, top: str, jobs: list[OldJob]) -> dict[str, Any]:
        """Return the new configuration as plain values."""
        hosts: dict[str, Any] = {}
        labels = {(job.host, job.volume, job.label) for job in jobs}
        for job in jobs:
            settings = self._settings(job, top, labels)
            if settings is None:
                continue
            host = hosts.setdefault(job.host, {})
            self._connection(host, job, settings)
            volume = host.setdefault("volumes", {}).setdefault(job.volume, {"jobs": {}})
            volume["jobs"][job.label] = settings
        return {"data_dir": top, "hosts": {name: _ordered(host) for name, host in hosts.items()}}

    def _settings(self, job: OldJob, top: str, labels: set[tuple[str, str, str]]) -> dict[str, Any] | None:
        old, new = job.settings, dict[str, Any]()
        tool = str(old.get("tool", "rsync"))
        source = str(old.get("src", ""))
        if not source:
            self._notes.append(f"{job.origin}: it has no src, the job is left out")
            return None
        original = _original(source, top, job)
        if tool == "cp" and original is not None and (job.host, job.volume, original) in labels:
            new["source"], new["from"] = "/", original
        elif tool in ("rsync", "cp"):
            if tool == "cp":
                self._notes.append(f"{job.origin}: tool cp from {source} is done by rsync now")
            new.update(self._source(job, source))
        else:
            self._notes.append(f"{job.origin}: its tool {tool} is unknown, the job is left out")
            return None
        new["period"] = _period(old)
        new["keep"] = int(old.get("keepCount", 9))
        if old.get("excludes"):
            new["excludes"] = [str(pattern) for pattern in old["excludes"]]
        for flag in ("disabled", "removable"):
            if _yes(old.get(flag)):
                new[flag] = True
        self._options(job, new)
        return new

    def _source(self, job: OldJob, source: str) -> dict[str, Any]:
        if source.startswith("rsync://"):
            return {"source": source}
        host, sign, path = source.partition(":")
        if not sign or "/" in host:
            return {"source": source, "local": True}
        user, at, address = host.rpartition("@")
        fqdn = str(job.settings.get("fqdn", job.host))
        if fqdn not in (address, "localhost", job.host):
            self._notes.append(
                f"{job.origin}: fqdn {fqdn} was pinged, backed up is {address}: {address} is used"
            )
        return {"source": path or "/", "_user": user if at else "root", "_address": address}

    def _connection(self, host: dict[str, Any], job: OldJob, settings: dict[str, Any]) -> None:
        """Move address and user to the host; they are the same for all of its jobs, or it is said."""
        user, address = settings.pop("_user", None), settings.pop("_address", None)
        if address is None:
            return
        if host.setdefault("addresses", [address]) != [address]:
            self._notes.append(
                f"{job.origin}: also had the address {address}, used is {host['addresses'][0]}"
            )
        if host.setdefault("user", user) != user:
            self._notes.append(f"{job.origin}: also had the user {user}, used is {host['user']}")

    def _options(self, job: OldJob, new: dict[str, Any]) -> None:
        """Carry over what the user gave to rsync."""
        try:
            words = shlex.split(str(job.settings.get("rsyncOpts", "")))
        except ValueError:
            self._notes.append(f"{job.origin}: rsyncOpts cannot be read: {job.settings['rsyncOpts']}")
            return
        kept = []
        for word in words:
            name, _, value = word.partition("=")
            if name == "--bwlimit" and value:
                new["bandwidth_limit"] = value if value[-1].isalpha() else f"{value}K"
            elif name == "--exclude" and value:
                new.setdefault("excludes", []).append(value)
            elif name in config.RSYNC_OPTIONS:
                kept.append(word)
            elif name not in NEEDLESS:
                self._notes.append(f"{job.origin}: the rsync option {word} is not allowed, left out")
        if kept:
            new["rsync_options"] = kept


def _ordered(host: dict[str, Any]) -> dict[str, Any]:
    return {key: host[key] for key in ("addresses", "user", "volumes") if key in host}


def _original(source: str, top: str, job: OldJob) -> str | None:
    """Return the label whose newest snapshot a source is, of the same volume, or None."""
    found = re.fullmatch(rf"{re.escape(top)}/{re.escape(job.host)}/{re.escape(job.volume)}/(.+)\.1/?", source)
    return found[1] if found else None


def _period(old: Mapping[str, Any]) -> str:
    seconds = next((int(old[key]) * unit for key, unit in CYCLES.items() if key in old), 86400)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _yes(value: object) -> bool:
    return str(value).lower() in ("yes", "y", "true", "1")
