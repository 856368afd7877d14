"""What is done between the backups: checksums, the night's verification, restore drills, trying the key.

It runs in a process of its own at idle priority, which the daemon starts and watches
(`Chores`), so that no backup waits for it and the daemon stays small.  The sacred rule: a
chore that fails or is interrupted costs nothing; it is due again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flashback import process
from flashback.disk import META
from flashback.errors import BusyError, ConfigError, FlashbackError, NotNowError, StoppedError
from flashback.model import Config, Job, Pulse

if TYPE_CHECKING:
    from flashback.store import Store

LOG = logging.getLogger("flashback.chores")
# Sealing or reading a large disk takes days at most.
LONG = 7 * 86400.0


def night_has_come(config: Config, last: datetime | None, local: datetime) -> bool:
    """Return whether this day's slice of verification is still to do; `local` is now on the wall clock."""
    if local.hour * 60 + local.minute < config.verify_at:
        return False
    return last is None or last.astimezone(local.tzinfo).date() < local.date()


def run(config: Config, pulse: Pulse, now: Callable[[], datetime]) -> list[str]:
    """Do everything that is due, one thing after the other; return what failed, a sentence for each."""
    from flashback import care, disk, doors, drill, manifest, verify  # noqa: PLC0415 - the daemon imports this too
    from flashback.store import open_store  # noqa: PLC0415 - as above

    failed: list[str] = []
    with _only_one(config):
        disk.require(config)
        store = open_store(config.data_dir)
        for job in config.jobs:
            _try(failed, f"making ready for {job.name}", partial(make_ready, config, store, job, pulse))
        for job, snapshot in manifest.missing(config, config.jobs):
            sealing = partial(manifest.seal, config, job, snapshot, pulse)
            _try(failed, f"sealing {job.name} {snapshot.name}", sealing)
        _try(failed, "sweeping manifests", lambda: manifest.sweep(config))
        local = now().astimezone()
        if night_has_come(config, verify.verified_at(config), local):
            _try(failed, "verifying", lambda: verify.run(config, pulse=pulse))
        for host in drill.due(config, now()):
            _try(failed, f"the restore drill of {host}", partial(drill.run, config, host, pulse=pulse))
        for job in doors.due(config, now()):
            _try(failed, "trying the key", partial(doors.run, config, job, now, pulse))
        care.gather(config, now())
    return failed


def make_ready(config: Config, store: Store, job: Job, pulse: Pulse) -> str:
    """Prepare the next backup of a job, then delete what has expired and was of no use for that."""
    from flashback import survey  # noqa: PLC0415 - the daemon imports this module

    said = ""
    if job.detect == "manifest":
        newest = survey.missing(config, job, store.snapshots(job))
        if newest is not None:
            said = f"{survey.describe(config, job, newest, pulse)} entries listed"
        store.prepare(job, pulse)
    store.sweep(job, pulse)
    return said or "done"


def _try(failed: list[str], what: str, chore: Callable[[], object]) -> None:
    try:
        LOG.info("%s: %s", what, chore())
    except StoppedError:
        raise
    except NotNowError as error:
        LOG.info("%s: %s", what, error)
    except (FlashbackError, OSError) as error:
        LOG.warning("%s: %s", what, error)
        failed.append(f"{what}: {error}")


@contextlib.contextmanager
def _only_one(config: Config) -> Iterator[None]:
    path = config.data_dir / META / "chores.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # The passes say so too, and louder.
        raise NotNowError(f"The backup disk cannot be written to: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("The chores are at work already") from None
        yield
    finally:
        os.close(descriptor)


class Chores:
    """The daemon's side: starts the process when something may be due, and ends it with the daemon."""

    def __init__(self) -> None:
        self.wanted = True
        """Whether something new is there to be looked after."""
        self.trouble = ""
        """What failed the last time, in a sentence."""
        self._day: object = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def tend(self, config: Config, local: datetime) -> None:
        """Start the chores when a snapshot is new or a new night has come, unless they are at work."""
        if self._thread is not None and self._thread.is_alive():
            return
        night = (local - timedelta(minutes=config.verify_at)).date()
        if self.wanted or night != self._day:
            self.wanted, self._day = False, night
            self._thread = threading.Thread(target=self._work, args=(config.path,), name="chores")
            self._thread.start()

    def end(self) -> None:
        """End the chores and wait for them."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, path: Path) -> None:
        def pulse() -> None:
            if self._stop.is_set():
                raise StoppedError

        argv = ["nice", "-n", "19", "ionice", "-c", "3", sys.executable, "-m", "flashback.chores", str(path)]
        try:
            done = process.run(argv, pulse=pulse, timeout=LONG)
            for line in done.stderr.splitlines():
                LOG.info("%s", line)
            # Not now says nothing about how the last ones went; a broken configuration is said by the daemon.
            if done.code not in (NotNowError.exit_code, ConfigError.exit_code):
                said = done.stdout.strip() or " ".join(done.stderr.split())[-300:]
                self.trouble = said or "they took too long" if done.code else ""
        except StoppedError:
            return
        except FlashbackError as error:
            LOG.warning("%s", error)


def main(path: Path) -> int:
    """Do the chores of the configuration in that file; print what failed first."""
    from flashback import clock, config  # noqa: PLC0415 - only this process needs them

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))

    def pulse() -> None:
        if stopping:
            raise StoppedError

    failed = run(config.load(path), pulse, clock.now)
    print(failed[0] if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except FlashbackError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
