"""Commands for who sets the engine up: the disk, the configuration, the light."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flashback import config as configuration
from flashback.errors import ConfigError


@click.group("disk")
def disk_group() -> None:
    """Look after the backup disk."""


@disk_group.command("mark")
@click.argument("mount", type=click.Path(path_type=Path))
def disk_mark(mount: Path) -> int:
    """Mark the disk that is mounted on MOUNT as the backup disk; print its id."""
    from flashback import disk  # noqa: PLC0415 - only what this command needs

    print(disk.mark(mount))
    return 0


@click.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def config_check(path: Path, file: Path | None) -> int:
    """List every mistake in the configuration, one per line."""
    try:
        loaded = configuration.load(file or path)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return error.exit_code
    print(f"{loaded.path}: good, {len(loaded.jobs)} jobs")
    return 0


@click.command()
@click.option("--green", help="The green LED below /sys/class/leds, as a glob.")
@click.option("--red", help="The red LED below /sys/class/leds, as a glob.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/sys/class/leds"), show_default=True)
@click.option("--show", is_flag=True, help="Print what is shown now, in words, and end.")
@click.pass_obj
def led(path: Path, green: str | None, red: str | None, root: Path, show: bool) -> int:
    """Show the engine's state on a green and a red LED."""
    from flashback import led as sign  # noqa: PLC0415 - only what this command needs

    loaded = configuration.load(path)
    leds = sign.Leds(root, green or loaded.led_green, red or loaded.led_red)
    if show:
        print(sign.show(loaded.run_dir, leds))
        return 0
    return sign.run(loaded.run_dir, leds)
