"""Write the manual from the command tree: one source for the help, the man page and the reference."""

from __future__ import annotations

from collections.abc import Iterator

import click

from flashback import __version__

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


def commands(group: click.Group, before: str = "flashback") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, in the order of the help."""
    context = click.Context(group, info_name=before)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{before} {name}")
        elif command is not None:
            yield f"{before} {name}", command


def markdown(group: click.Group) -> str:
    """Return the reference of all commands as Markdown."""
    parts = ["# Commands of flashback\n\nWritten from the program itself: `flashback manual --markdown`.\n"]
    for name, command in commands(group):
        parts.append(f"\n## {name}\n\n    {_usage(name, command)}\n\n{_help(command)}\n")
        for option, text in _options(command):
            parts.append(f"\n- `{option}`: {text}")
        parts.append("\n" if _options(command) else "")
    parts.append("\n## Exit status\n\n" + "".join(f"- {code}: {text}\n" for code, text in EXIT_STATUS))
    parts.append("\n## Files\n\n" + "".join(f"- `{name}`: {text}\n" for name, text in FILES))
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
    for title, rows in (("EXIT STATUS", EXIT_STATUS), ("FILES", FILES)):
        lines.append(f".SH {title}")
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
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
