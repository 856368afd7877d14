"""Run the rounds: each program does the same step on the same tree before any does the next.

A round begins with an empty disk for each program and goes through the steps in order.  What was
measured already is not measured again, but a program that still has steps to come does the earlier ones
once more, since its disk has to hold them.  A program that fails is noted with its words and the others
go on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from limits import cold

from bench import compare
from bench.data import DataSet, Empty, Home, Size
from bench.measure import Figures, Wire
from bench.places import Client, Lot, client
from bench.results import IDLE, Key, Results
from bench.tools import ALL
from bench.tools.base import Argv, Tool

# Memory of the plug.
LIMIT = 128 << 20
# After so many steps the room of deleted files goes back to the machine; sparse images grow else.
TRIM_EVERY = 5
# What the sparse image of one program's disk may hold, by what the home holds.
ROOM = 30


@dataclass(frozen=True)
class Step:
    """One thing that every program does in a round."""

    phase: str
    day: int
    """The day whose tree the client has."""
    act: str = "backup"
    cold: bool = False
    """Whether the page cache is dropped before."""
    limited: bool = False
    """Whether the server's side gets the memory of a plug."""


BEFORE_MONTH = (
    Step("first", 0, cold=True),
    Step("nothing", 0),
    Step("day", 1),
    Step("nothing-128MB", 1, cold=True, limited=True),
    Step("day-128MB", 2, cold=True, limited=True),
    Step("restore-one", 2, "restore-one", cold=True),
    Step("restore-all", 2, "restore-all", cold=True),
    Step("expire", 2, "expire", cold=True),
)
MANY_STEPS = (Step("million-first", 0, cold=True), Step("million-nothing", 0, cold=True))
# The others take hours for a million files.
MANY_TOOLS = ("flashback-manifest", "flashback-full", "rsync-mirror", "link-dest-2014")
PHASES = (*(step.phase for step in BEFORE_MONTH), "month", *(step.phase for step in MANY_STEPS))


def home_steps(size: Size) -> tuple[Step, ...]:
    """Return the steps with the home, days in a row included."""
    begin = BEFORE_MONTH[-1].day + 1
    return (*BEFORE_MONTH, *(Step("month", day, "daily") for day in range(begin, begin + size.days)))


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    size: Size
    seed: int
    fs: Sequence[str]
    tools: Sequence[str]
    phases: Sequence[str]
    rounds: int
    month_rounds: int
    keep: int
    work: Path

    def steps(self, steps: Sequence[Step], number: int) -> list[Step]:
        """Return those of the steps that are measured in a round."""
        return [
            step
            for step in steps
            if step.phase in self.phases and (step.phase != "month" or number <= self.month_rounds)
        ]


def run(wanted: Wanted, results: Results, say: Callable[[str], None]) -> None:
    """Measure what is wanted and not there yet, round by round."""
    for number in range(1, wanted.rounds + 1):
        for kind in wanted.fs:
            few = [name for name in wanted.tools if name in MANY_TOOLS]
            for steps, names, data in (
                (home_steps(wanted.size), wanted.tools, Home(wanted.size, wanted.seed)),
                (MANY_STEPS, few, Empty(wanted.size)),
            ):
                Round(wanted, results, say, number, kind, steps, data).run(names)


@dataclass
class Round:
    """One round on one kind of file system with one data set."""

    wanted: Wanted
    results: Results
    say: Callable[[str], None]
    number: int
    kind: str
    steps: Sequence[Step]
    data: DataSet
    day: int = 0
    _trees: dict[int, list[object]] = field(default_factory=dict)

    def run(self, names: Sequence[str]) -> None:
        """Let the programs go through the steps as far as something is missing."""
        measured = self.wanted.steps(self.steps, self.number)
        last = {
            name: max((self.steps.index(step) for step in measured if self._missing(step, name)), default=-1)
            for name in names
        }
        # Another one is the first in each round.
        begin = (self.number - 1) % len(names) if names else 0
        names = [name for name in (*names[begin:], *names[:begin]) if last[name] >= 0]
        if not names:
            return
        with self._stage() as (top, laptop, wire), contextlib.ExitStack() as stack:
            tools = {}
            for name in names:
                room = max(4 << 30, ROOM * self.wanted.size.bytes)
                lot = Lot(top / name, laptop, wire, self.kind, room, self.wanted.keep)
                try:
                    tools[name] = stack.enter_context(ALL[name].settled(lot))
                except (OSError, subprocess.CalledProcessError) as error:
                    self._cannot_begin(name, measured, error)
            self._go(laptop, tools, measured, last)

    def _go(
        self, laptop: Client, tools: dict[str, Tool], measured: Sequence[Step], last: dict[str, int]
    ) -> None:
        """Do the steps, each with all programs, until the last one that any program still needs."""
        end = max((last[name] for name in tools), default=-1)
        for index, step in enumerate(self.steps[: end + 1]):
            while self.day < step.day:
                self.day += 1
                self.data.change(laptop.source, self.day)
            for name, tool in tools.items():
                if index <= last[name]:
                    self._do(step, tool, measured=step in measured and self._missing(step, name))
                if index % TRIM_EVERY == 0:
                    tool.place.bench.disk.trim()

    def _cannot_begin(self, name: str, measured: Sequence[Step], error: Exception) -> None:
        for step in measured:
            if self._missing(step, name):
                self._note(step, name, Figures(exit=1, said=f"it can not begin: {error}"))

    def _missing(self, step: Step, name: str) -> bool:
        possible = ALL[name].history or step.act != "expire"
        return possible and self._key(step, name) not in self.results.finished

    def _key(self, step: Step, name: str) -> Key:
        return Key(self.wanted.size.name, self.kind, self.number, step.phase, step.day, name)

    @contextlib.contextmanager
    def _stage(self) -> Iterator[tuple[Path, Client, Wire]]:
        """Make the client with the tree of day 0."""
        with (
            tempfile.TemporaryDirectory(prefix="backup-bench-", dir=self.wanted.work) as name,
            Wire().watching() as wire,
        ):
            top = Path(name)
            # BackupPC is not root.
            top.chmod(0o755)
            (top / "client").mkdir()
            with client(top / "client", wire) as laptop:
                self.say(f"round {self.number}, {self.kind}: making the tree")
                self.data.fill(laptop.source)
                yield top, laptop, wire

    def _do(self, step: Step, tool: Tool, *, measured: bool) -> None:
        restoring = step.act.startswith("restore")
        if restoring and not measured:
            return
        with contextlib.ExitStack() as stack:
            to = None
            if restoring:
                to = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=tool.place.folder)))
            argv = self._command(step, tool, to)
            if argv is None:
                return
            figures = self._measure(step, tool, argv)
            if to is not None and figures.exit == 0 and not any(to.iterdir()):
                figures.exit, figures.said = 1, "it said that all is well, but nothing was restored"
            more = {}
            if step.act == "restore-all" and to is not None and figures.exit == 0:
                more = {"differs": compare.differing(self._tree(tool), tool.restored(to))}
            if figures.exit == 0 and step.act in ("backup", "daily"):
                self._rest(step, tool, measured=measured)
            if measured:
                self._note(step, tool.name, figures, **more)
        if figures.exit:
            self._recover(tool)
        elif step.act in ("backup", "daily"):
            tool.made += 1
        elif step.act == "expire":
            tool.made -= 1

    def _rest(self, step: Step, tool: Tool, *, measured: bool) -> None:
        """Let the program do what it does by itself after a backup."""
        argv = tool.rest()
        if argv is not None:
            figures = self._measure(replace(step, cold=False), tool, argv)
            if measured:
                self._note(replace(step, phase=f"{IDLE}{step.phase}"), tool.name, figures)

    def _command(self, step: Step, tool: Tool, to: Path | None) -> Argv | None:
        if to is not None:
            sample = self.data.sample() if isinstance(self.data, Home) and step.act == "restore-one" else ""
            return tool.restore(to, sample)
        return {"backup": tool.backup, "daily": tool.daily, "expire": tool.expire}[step.act]()

    def _measure(self, step: Step, tool: Tool, argv: Argv) -> Figures:
        bench = tool.place.bench
        bench.disk.sync()
        if step.cold:
            cold()
            _read_again(tool)
        bench.server.limit(LIMIT if step.limited else None)
        try:
            return bench.run(argv, tool.env, at_client=tool.pushes)
        finally:
            bench.server.limit(None)

    def _tree(self, tool: Tool) -> list[object]:
        """Return the home as it is today, for the comparison; made once."""
        if self.day not in self._trees:
            self._trees = {self.day: compare.listing(tool.place.client.source)}
        return self._trees[self.day]

    def _note(self, step: Step, name: str, figures: Figures, **more: object) -> None:
        self.results.note(self._key(step, name), figures, **more)
        outcome = f"{figures.wall_s:8.2f} s" if figures.exit == 0 else f"FAILED: {figures.said[-200:]}"
        self.say(f"round {self.number}, {self.kind}, {step.phase:18} day {step.day:2}  {name:20} {outcome}")

    @staticmethod
    def _recover(tool: Tool) -> None:
        argv = tool.recover()
        if argv is not None:
            with contextlib.suppress(OSError):
                tool.call(argv)


def _read_again(tool: Tool) -> None:
    """Bring back what is not the server's disk: the client's names and times, the program's own files."""
    for folder, folders, files in os.walk(tool.place.client.source):
        for name in (*folders, *files):
            os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a million times
    subprocess.run(
        tool.warm(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
