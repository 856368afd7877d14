"""Commands that give files back."""

from __future__ import annotations

from pathlib import Path

import click

from flashback import config as configuration


@click.command()
@click.argument("target", metavar="HOST/VOLUME[/LABEL]")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option(
    "--to", "to", type=click.Path(path_type=Path), required=True, help="The directory to restore into."
)
@click.option("--snapshot", "name", default="latest", show_default=True, help="The snapshot's name.")
@click.option("--overwrite", is_flag=True, help="Allow a target that is not empty.")
@click.pass_obj
def restore(path: Path, target: str, *, paths: tuple[str, ...], to: Path, name: str, overwrite: bool) -> int:
    """Copy a snapshot, or PATHs of it, into a directory, with owners, modes, times and links."""
    from flashback import restore as action  # noqa: PLC0415 - only what this command needs

    print(action.restore(configuration.load(path), target, paths, to, name=name, overwrite=overwrite))
    return 0
