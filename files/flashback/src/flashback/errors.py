"""The one family of exceptions; each carries what happened and what to do about it.

FlashbackError          exit 1   something failed
+-- ConfigError         exit 2   the configuration holds mistakes, all of them listed
+-- UsageError          exit 2   the command line asks for something that does not exist
+-- NotNowError         exit 75  nothing is broken, the moment is wrong: client or disk away, clock
    +-- BusyError       exit 75  another run holds the engine's or the disk's lock
    +-- StoppedError    exit 75  the engine was asked to end; raised out of whatever it was doing
        +-- CancelledError       only this job was asked to end
"""

from __future__ import annotations


class FlashbackError(Exception):
    """Something failed; `what` says it in one sentence, `hint` says what to do, both without a final dot."""

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        """Return both sentences on one line."""
        line = f"{self.what}. {self.hint}" if self.hint else self.what
        return " ".join(line.split())


class ConfigError(FlashbackError):
    """The configuration cannot be used; `problems` has one line per mistake, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems), "`flashback config check` lists one mistake per line")
        self.problems = problems


class UsageError(FlashbackError):
    """The command names a job, a snapshot or a path that does not exist or is not allowed."""

    exit_code = 2


class NotNowError(FlashbackError):
    """Nothing is broken, but it cannot be done at this moment."""

    exit_code = 75


class BusyError(NotNowError):
    """Another run holds the engine's or the disk's lock."""


class StoppedError(NotNowError):
    """The engine is being stopped; work in hand is ended in an orderly way."""

    def __init__(self) -> None:
        super().__init__("The engine is being stopped", "The backup continues where it was at the next pass")


class CancelledError(StoppedError):
    """A person stopped this job; the others go on."""

    def __init__(self) -> None:
        super().__init__()
        self.what = "it was stopped by hand"
