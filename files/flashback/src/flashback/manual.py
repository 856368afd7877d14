"""Write the manual: from the command tree, and from the tables by which the configuration is checked.

So the help, the man page and the reference have one source.  Nothing here reads a
configuration or a disk.  The sacred rule: a command, an option or a setting that exists is
in the manual; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

import click
import yaml

from flashback import __version__, config
from flashback.model import Config, Job, Keep

EXIT_STATUS = (
    ("0", "done, or all is well"),
    ("1", "failed, or something needs a person"),
    ("2", "wrong usage or configuration"),
    ("75", "not now: a client or the disk is away, the clock is not set, another run is at work"),
)
FILES = (
    ("/etc/flashback/flashback.yml", "the configuration; -c or FLASHBACK_CONFIG names another"),
    (
        "/run/flashback/status.json",
        "how things stand, for programs; beside it `status` and `queue` for people",
    ),
    ("DISK/HOST/VOLUME/LABEL/2026-11-23T030000Z/", "a complete snapshot: a plain tree"),
    ("DISK/.flashback/", "identity of the disk, history, manifests, quarantine"),
)
JOB_SETTINGS = (
    "These are given at a job, its volume, its host or in `defaults`; the nearest counts, but `excludes` "
    "add up."
)
# A week is rather written in days.
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_SIZES = (("G", 10**9), ("M", 10**6), ("K", 1000))
ENVIRONMENT = (
    ("FLASHBACK_CONFIG", "the configuration file, where -c does not name one"),
    (
        "FLASHBACK_JOB, FLASHBACK_HOST, FLASHBACK_WHEN, FLASHBACK_OUTCOME, FLASHBACK_SNAPSHOT",
        "what the commands `before` and `after` get: the job, its host, before or after, and then what "
        "became of it",
    ),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "set by systemd; `flashback run` tells it that it is alive"),
)
# What each setting does. What it may be and what holds without it comes from the engine itself.
MEANINGS = {
    "data_dir": "where the backup disk is mounted",
    "disk_id": "what `.flashback/id` on the disk must hold; without it any marked disk will do",
    "run_dir": "where the status files and the socket are",
    "smart": "where the system writes what `smartctl --json` says of the backup disk",
    "container": "where the encrypted container of the backup disk shows itself: while it is there and the "
    "disk is not mounted, the disk is locked",
    "interval": "time between two passes",
    "concurrency": "jobs that run at the same time, never two of one client",
    "clock.wait_for_sync": "whether passes wait until the clock is synchronised",
    "ssh.key": "the key that the engine logs in with; it may only read",
    "ssh.known_hosts": "the pinned keys of the clients, by their names in this file",
    "ssh.restore_key": "the key that may write to clients; only `restore` uses it",
    "ssh.ciphers": "the ciphers that ssh offers, the preferred first; `flashback bench-ssh` measures them",
    "space.reserve_percent": "share of the disk that stays free: the oldest snapshots of all jobs make room",
    "space.reserve_inodes_percent": "share of the inodes that stays free",
    "space.floor": "snapshots of each job that a full disk never costs",
    "verify.per_night": "bytes that are read again each night",
    "verify.rate": "bytes a second that this reading may take",
    "verify.at": "the time from which the night's share is read",
    "verify.drill_every": "how often a restore of each client is tried",
    "verify.drill_files": "files that such a trial restores",
    "led.green": "the green LED below /sys/class/leds, as a pattern",
    "led.red": "the red LED, likewise",
    "addresses": "names and addresses of the client; all are tried together, the first good answer wins",
    "port": "the port of its ssh",
    "user": "the user to log in as",
    "mac": "hardware address; the client is woken when it does not answer",
    "source": "a folder whose content is backed up, a path whose last part is a pattern (/mnt/x/*), or "
    "rsync://host/module/path",
    "from": "a label of the same volume, whose newest snapshot is taken over without a transfer (at a job)",
    "period": "time from one backup to the next",
    "keep": "snapshots that stay: so many of the newest, or counts by last, hourly, daily, weekly, monthly, "
    "yearly",
    "detect": "how changes are found: `manifest` compares a listing of the source with that of the newest "
    "snapshot, `full` compares every entry with the snapshot",
    "full_every": "how often `manifest` compares every entry all the same",
    "timeout": "time after which a transfer is ended",
    "stall_timeout": "time without any progress after which a transfer is ended",
    "late_after": "how long a job may stay due while its client is there, until it counts as late",
    "away_limit": "how long a client may be away, until it counts as late",
    "always_on": "whether the client is expected at any time; only then blackouts count",
    "blackouts": "times of the week, local, in which nothing begins",
    "max_rtt_ms": "the job waits while the client answers more slowly than this, in milliseconds",
    "only_networks": "the job waits while the client is reached at an address outside these networks",
    "before": "a command on this machine before the transfer: exit 0 is good, 75 means not now, all else "
    "fails the job",
    "after": "a command on this machine after each try, whatever came of it",
    "accept_partial": "whether a snapshot counts although some files could not be read (rsync exit 23)",
    "guard": "whether a snapshot that lost or altered far too much is held back",
    "guard_percent": "the share of files or bytes that is too much",
    "excludes": "patterns of rsync for what is left out; those of all levels add up",
    "exclude_larger_than": "size of files from which they are left out",
    "exclude_file": "name of a file that lists, in any folder of the client, what to leave out there",
    "whole_file": "whether changed files are sent whole instead of their differences",
    "one_file_system": "whether other file systems mounted below the source are left out",
    "bandwidth_limit": "bytes a second that a transfer may take",
    "disabled": "whether the job is listed but never run",
    "local": "whether the source is on this machine; it is for a host called localhost",
    "removable": "whether an absent source means away instead of failed",
    "rsync_options": "further options of rsync",
}


def settings() -> Iterator[tuple[str, str]]:
    """Yield the settings of the engine and of hosts with their full names and what there is to say."""
    for key, check in config.TOP.items():
        yield key, _told(key, check, _default(Config, key))
    for section, (checks, renamed) in config.SECTIONS.items():
        for key, check in checks.items():
            name = f"{section}.{key}"
            yield name, _told(name, check, _default(Config, renamed.get(key, key)))
    for key, check in config.HOST.items():
        default = "the host's own name" if key == "addresses" else _default(Job, key)
        yield f"hosts.HOST.{key}", _told(key, check, default)


def job_settings() -> Iterator[tuple[str, str]]:
    """Yield the settings of jobs."""
    for key, check in {**config.SETTINGS, **config.JOB}.items():
        yield key, _told(key, check, _default(Job, "copy_of" if key == "from" else key))


def _default(record: type[Config | Job], name: str) -> Any:
    return {each.name: each for each in fields(record)}[name].default


def _told(key: str, check: config.Check, default: Any) -> str:
    spelled = "Required" if default is MISSING else f"Default: {_spelled(check, default)}"
    return f"{MEANINGS[key]}. Wanted: {_wanted(check)}. {spelled}."


def _wanted(check: config.Check) -> str:
    """Return what a setting may be, in the words with which its check refuses what it may not."""
    wrong = yaml.ScalarNode("tag:yaml.org,2002:str", "?")
    nothing = yaml.ScalarNode("tag:yaml.org,2002:null", "")
    probes = (wrong, nothing, yaml.SequenceNode("tag:yaml.org,2002:seq", [wrong]))
    said = [_refusal(check, probe) for probe in probes]
    if check is config._boolean:
        return "true or false"
    if any("must begin with /" in each for each in said):
        return "an absolute path"
    return max(
        (each.partition("wanted is ")[2] or each.partition("allowed are ")[2] for each in said), key=len
    )


def _refusal(check: config.Check, probe: yaml.Node) -> str:
    try:
        check(probe)
    except ValueError as refusal:
        return str(refusal)
    return ""


def _spelled(check: config.Check, value: Any) -> str:  # noqa: PLR0911 - one line for each kind
    """Return a default as it would be written in the configuration."""
    if value is None or value == ():
        return "none"
    if isinstance(value, Keep):
        return str(value.last)
    if isinstance(value, bool):
        return str(value).lower()
    if check is config._duration:
        return next(f"{value // size}{unit}" for unit, size in _UNITS if value % size == 0)
    if check is config._bytes:
        return next(f"{value // size}{unit}" for unit, size in _SIZES if value % size == 0)
    if check is config._time_of_day:
        return f"{value // 60:02}:{value % 60:02}"
    return str(value)


def commands(group: click.Group, before: str = "flashback") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, in the order of the help."""
    context = click.Context(group, info_name=before)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{before} {name}")
        elif command is not None:
            yield f"{before} {name}", command


def chapters() -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Yield what follows the commands: a title, what to know first, and the rows."""
    yield "Configuration", "", list(settings())
    yield "Settings of a job", JOB_SETTINGS, list(job_settings())
    yield "Exit status", "", list(EXIT_STATUS)
    yield "Environment", "", list(ENVIRONMENT)
    yield "Files", "", list(FILES)


def markdown(group: click.Group) -> str:
    """Return the reference of all commands as Markdown."""
    parts = ["# Commands of flashback\n\nWritten from the program itself: `flashback manual --markdown`.\n"]
    for name, command in commands(group):
        parts.append(f"\n## {name}\n\n    {_usage(name, command)}\n\n{_help(command)}\n")
        for option, text in _options(command):
            parts.append(f"\n- `{option}`: {text}")
        parts.append("\n" if _options(command) else "")
    for title, before, rows in chapters():
        parts.append(f"\n## {title}\n\n" + (f"{before}\n\n" if before else ""))
        parts += [f"- `{name}`: {text}\n" for name, text in rows]
    return "".join(parts)


def man_page(group: click.Group) -> str:
    """Return the manual page in roff."""
    lines = [
        f'.TH FLASHBACK 1 "" "flashback {__version__}"',
        ".SH NAME",
        "flashback \\- " + _roff(_help(group)),
    ]
    lines += [".SH SYNOPSIS", ".B flashback", "[\\-c FILE] COMMAND ...", ".SH COMMANDS"]
    for name, command in commands(group):
        lines += [".SS " + _roff(_usage(name, command)), _roff(_help(command))]
        for option, text in _options(command):
            lines += [".TP", f".B {_roff(option)}", _roff(text)]
    for title, before, rows in chapters():
        lines += [f".SH {title.upper()}", *([_roff(before)] if before else [])]
        for name, text in rows:
            lines += [".TP", f".B {_roff(name)}", _roff(text)]
    return "\n".join(lines) + "\n"


def _usage(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    return " ".join([name, *command.collect_usage_pieces(context)])


def _help(command: click.Command) -> str:
    return " ".join((command.help or "").split())


def _options(command: click.Command) -> list[tuple[str, str]]:
    context = click.Context(command)
    options = [each for each in command.params if isinstance(each, click.Option)]
    found = [option.get_help_record(context) for option in options]
    return [(option, " ".join(text.split())) for option, text in filter(None, found)]


def _roff(text: str) -> str:
    """Return text in which roff finds no command."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("~", "\\(ti")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
