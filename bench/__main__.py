"""The command line of the bench."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

TOP = Path(__file__).resolve().parent.parent
# The engine's rig and its helpers, which are no package.
sys.path[:0] = [str(TOP / "files/flashback/tests"), str(TOP / "files/flashback/bench")]

from limits import describe_machine  # noqa: E402 - found through the line above

from bench import report  # noqa: E402 - as above
from bench.data import SIZES, Size  # noqa: E402 - as above
from bench.results import Results, records  # noqa: E402 - as above
from bench.run import PHASES, Wanted, run  # noqa: E402 - as above
from bench.tools import ALL  # noqa: E402 - as above

FILE_SYSTEMS = ("ext4", "xfs", "btrfs")
RESULTS = TOP / "bench/results"
NAMESPACE = "BACKUP_BENCH_NAMESPACE"
NEEDED = ("rsync", "rrsync", "ssh", "iptables", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "setpriv", "fstrim")


class Names(click.ParamType[list[str]]):
    """Names from a list, separated by commas."""

    name = "names"

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the names, in the order of the list."""
        asked = value if isinstance(value, list) else value.split(",")
        for each in asked:
            if each not in self._allowed:
                self.fail(f"{each!r} is none of {', '.join(self._allowed)}", param, ctx)
        return [each for each in self._allowed if each in asked]


@click.group()
def main() -> None:
    """Measure this engine side by side with other backup programs."""


@main.command("run")
@click.option("--size", type=click.Choice(list(SIZES)), default="full", show_default=True)
@click.option("--files", type=click.IntRange(min=100), help="Another number of files than that of the size.")
@click.option("--megabytes", type=click.IntRange(min=2), help="Another amount of data.")
@click.option("--image-megabytes", type=click.IntRange(min=1), help="Another disk image, part of the data.")
@click.option(
    "--many", type=click.IntRange(min=1), help="Another number of empty files in the million phases."
)
@click.option("--seed", type=int, default=1, show_default=True, help="What the data are made from.")
@click.option("--days", type=click.IntRange(min=1), help="Another number of days in a row.")
@click.option("--fs", type=Names(FILE_SYSTEMS), help="Other file systems than those of the size.")
@click.option("--tools", type=Names(tuple(ALL)), default=",".join(ALL), show_default=True)
@click.option("--phases", type=Names(PHASES), default=",".join(PHASES), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), help="Another number of rounds.")
@click.option("--month-rounds", type=int, default=1, show_default=True, help="Rounds that have the 30 days.")
@click.option(
    "--keep", type=click.IntRange(min=6), default=7, show_default=True, help="Backups that are kept."
)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False, exists=True), default="/var/tmp")  # noqa: S108 - not in memory
@click.option(
    "--results", type=click.Path(path_type=Path, dir_okay=False), help="Default: bench/results/SIZE.jsonl"
)
def run_(**given: Any) -> None:
    """Measure; what is in the results file already is not measured again."""
    _check_machine(given["tools"])
    _retire()
    size = _size(given)
    tools = []
    for name in given["tools"]:
        reason = ALL[name].missing()
        if reason:
            click.echo(f"{name} is left out: {reason}")
        else:
            tools.append(name)
    results = Results(given["results"] or RESULTS / f"{size.name}.jsonl")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    made = ("name", "files", "bytes", "image", "many", "days")
    settings = {name: getattr(size, name) for name in made} | {"seed": given["seed"], "keep": given["keep"]}
    _same_settings(results.path, settings)
    results.note_machine(**_machine(), **settings)
    wanted = Wanted(
        size, given["seed"], given["fs"] or size.fs, tools, given["phases"],
        given["rounds"] or size.rounds, given["month_rounds"], given["keep"],
        given["work"],
    )  # fmt: skip
    run(wanted, results, click.echo)
    click.echo(f"all results are in {results.path}")


@main.command("report")
@click.option("--size", type=click.Choice(list(SIZES)), default="full", show_default=True)
@click.option(
    "--results", type=click.Path(path_type=Path, dir_okay=False), help="Default: bench/results/SIZE.jsonl"
)
@click.option(
    "--docs", type=click.Path(path_type=Path, file_okay=False), default=TOP / "docs", help="Default: docs"
)
def report_(size: str, results: Path | None, docs: Path) -> None:
    """Write the pages and charts of a results file."""
    source = results or RESULTS / f"{size}.jsonl"
    if not source.exists():
        raise click.UsageError(f"There are no results in {source}: `make bench SIZE={size}` measures them")
    for path in report.write(source, docs):
        click.echo(str(path))


def _check_machine(tools: list[str]) -> None:
    """Refuse to begin where it could not work, with what to do."""
    if os.geteuid() != 0:
        raise click.UsageError(
            "Mounting disks and limiting memory need root: run it as root, or `make bench`"
        )
    wanted = [*NEEDED, *(ALL[name].program[0] for name in tools)]
    gone = sorted({each for each in wanted if not shutil.which(each)})
    if gone:
        raise click.UsageError(
            f"Not installed: {', '.join(gone)}. `files/workbench/install-debian-packages bench` installs them"
        )


def _retire() -> None:
    """Go on in a mount namespace of our own: whatever ends this process, no disk stays mounted.

    In it, the shell of root has no settings: sshd would run them at the start of each session.
    """
    if os.environ.get(NAMESPACE) is None:
        argv = ["unshare", "--mount", "--", sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execvpe("unshare", argv, {**os.environ, NAMESPACE: "own"})  # noqa: S606 - this program again
    settings = Path("~root/.bashrc").expanduser()
    if settings.exists():
        subprocess.run(["mount", "--bind", "/dev/null", str(settings)], check=True)


def _size(given: dict[str, Any]) -> Size:
    """Return the size asked for; one with changes has another name, so that results do not mix."""
    size = SIZES[given["size"]]
    changes = {
        "files": given["files"],
        "bytes": given["megabytes"] and given["megabytes"] << 20,
        "image": given["image_megabytes"] and given["image_megabytes"] << 20,
        "many": given["many"],
        "days": given["days"],
    }
    changes = {name: value for name, value in changes.items() if value}
    made = replace(size, **changes)
    if made.image >= made.bytes:
        raise click.UsageError(
            "The disk image is part of the data and has to be smaller: lower --image-megabytes"
        )
    return replace(made, name=f"{size.name}-changed") if changes else size


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix results of different data in one file."""
    for record in records(path) if path.exists() else ():
        other = {name: record[name] for name in settings if record["kind"] == "machine"}
        wrong = [f"{name} {value}" for name, value in other.items() if value != settings[name]]
        if wrong:
            raise click.UsageError(
                f"{path} was measured with {', '.join(wrong)}: name another file with --results"
            )


def _machine() -> dict[str, Any]:
    """Return what the results depend on beside the settings."""
    commit = subprocess.run(
        ["git", "-C", str(TOP), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": describe_machine(),
        "memory": memory,
        "commit": commit.stdout.strip() or "unknown",
        "versions": {tool.package: _version(tool.package) for tool in ALL.values() if tool.package},
    }


def _version(package: str) -> str:
    argv = ["dpkg-query", "--show", "--showformat=${Version}", package]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout or "not from a package"


if __name__ == "__main__":
    main()
