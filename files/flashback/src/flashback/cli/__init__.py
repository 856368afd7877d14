"""The command line.  Each command is a few lines: parse, ask the daemon or an action, print.

Exit status everywhere: 0 done, 1 failed, 2 wrong usage or configuration, 75 not now
(client away, disk away, clock, another run active).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from flashback import __version__
from flashback import config as configuration
from flashback.errors import ConfigError, FlashbackError

#: Where each command lives, in the order of the help. A module is loaded when its command is used.
COMMANDS = {
    "run": "work:run",
    "pass": "work:pass_",
    "backup": "work:backup",
    "stop": "work:stop",
    "pause": "work:pause",
    "resume": "work:resume",
    "status": "show:status",
    "queue": "show:queue",
    "why": "show:why",
    "history": "show:history",
    "snapshots": "show:snapshots",
    "keep": "keeping:keep",
    "unkeep": "keeping:unkeep",
    "accept": "keeping:accept",
    "reject": "keeping:reject",
    "retention": "keeping:retention",
    "forecast": "keeping:forecast",
    "verify": "verifying:verify",
    "chores": "verifying:chores",
    "drill": "verifying:drill",
    "damage": "verifying:damage",
    "restore": "giving_back:restore",
    "find": "giving_back:find",
    "diff": "giving_back:diff",
    "excludes": "clients:excludes_group",
    "probe": "clients:probe",
    "enroll": "clients:enroll",
    "doors": "clients:doors",
    "bench-ssh": "clients:bench_ssh",
    "disk": "setting_up:disk_group",
    "config": "setting_up:config_group",
    "adopt": "setting_up:adopt",
    "completion": "setting_up:completion",
    "manual": "setting_up:manual",
    "led": "setting_up:led",
}


def main() -> None:
    """Run the command line; every error is one line on stderr, never a traceback."""
    try:
        code = cli.main(prog_name="flashback", complete_var="_FLASHBACK_COMPLETE", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        _print_usage_error(error)
        code = error.exit_code
    except ConfigError as error:
        first, *others = error.problems
        more = f"; this is the first of {1 + len(others)} mistakes" if others else ""
        print(f"flashback: {first}{more}. {error.hint}", file=sys.stderr)
        code = error.exit_code
    except FlashbackError as error:
        print(f"flashback: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Somebody read enough (`| head`): nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"flashback: {error}", file=sys.stderr)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _print_usage_error(error: click.ClickException) -> None:
    """Print a mistake in the command line as all other errors: on one line, with what helps."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        # Newer than Debian 12's: a group without its command, where the help is the message.
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    what = error.format_message()
    end = "" if what.endswith((".", "?")) else "."
    name = context.command_path if context else "flashback"
    print(f"flashback: {what}{end} `{name} --help` explains", file=sys.stderr)


class _Commands(click.Group):
    """The commands by name, each loaded when it is asked for: a slow board feels every import."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, function = place.partition(":")
        command = getattr(importlib.import_module(f"flashback.cli.{module}"), function)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above says so
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`flashback COMMAND --help` explains one command, `flashback manual | man -l -` everything.",
)
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    envvar="FLASHBACK_CONFIG",
    default=configuration.DEFAULT_PATH,
    show_default=True,
    help="The configuration file.",
)
@click.version_option(__version__, "--version", message="flashback %(version)s")
@click.pass_context
def cli(context: click.Context, path: Path) -> None:
    """Snapshot backups by rsync, pulled by a small server."""
    context.obj = path
