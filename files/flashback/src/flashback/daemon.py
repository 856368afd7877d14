"""The loop: wake, read the configuration, run what is due, sleep.  It holds no logic of its own.

systemd starts it (Type=notify), watches it (WATCHDOG=1) and ends it (SIGTERM).  One
thread does everything; during long work `_pulse` is called at least once a second.  The
sacred rule: no failure of a job, of the configuration or of the disk ends the loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from flashback import actions, care, clock, config_reader, control, disk
from flashback.attempt import Attempt, describe
from flashback.chores import Chores
from flashback.control import Request, Server
from flashback.errors import (
    BusyError,
    ConfigError,
    FlashbackError,
    NotNowError,
    StoppedError,
    UsageError,
)
from flashback.model import Config, Job, ServerState
from flashback.status import Board, run_document

LOG = logging.getLogger("flashback")
# Longest sleep at a stretch, in seconds: the status is written anew that often.
NAP = 20.0


def main(path: Path) -> int:
    """Run until SIGTERM; return the exit status."""
    log_to_stderr()
    daemon = Daemon(config_reader.read(path))
    with run_lock(daemon.board.config.run_dir):
        daemon.run()
    return 0


def log_to_stderr() -> None:
    """Log plain lines to stderr; the journal adds time and name."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname).1s %(message)s")


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the lock of the one engine that may use this directory; the kernel frees it, however we end."""
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"Another engine is at work in {run_dir}", "Wait for it, or use --wait") from None
        yield
    finally:
        os.close(descriptor)


class Daemon:
    """What the loop carries from one turn to the next."""

    def __init__(self, first: Config) -> None:
        self.board = Board(first, clock.now)
        self._stopping = False
        self._wake = False
        self._notify = _notifier()
        self._watchdog = float(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 3
        self._petted = 0.0
        self._told = ""
        self._request: Request | None = None
        self._chores = Chores()
        self._read: tuple[int, int, int] | None = None
        """Signature of the configuration in use."""

    def run(self) -> None:
        """Work and sleep until told to stop."""
        self._alarm, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_wake)
        self.board.turn(ServerState.PRESTART, "not yet started")
        self._server = Server(self.board.config.run_dir)
        self._notify("READY=1")
        try:
            while True:
                self._turn()
        except StoppedError:
            LOG.info("stopped")
        finally:
            self._notify("STOPPING=1")
            self._server.close()
            self._chores.end()
            self.board.running.clear()
            self.board.next_pass_at = None
            self.board.turn(ServerState.DOWN, "stopped")

    def _turn(self) -> None:
        """One pass and the sleep after it, shortened by whoever asks for something."""
        self._read_config()
        self._work(None)
        while self._server.queue:
            self._work(self._server.queue.pop(0))
        until = time.monotonic() + self.board.config.interval
        self.board.next_pass_at = self.board.now() + timedelta(seconds=self.board.config.interval)
        self._wake = False
        while time.monotonic() < until and not self._wake:
            self._sleep(until)
            while self._server.queue:
                self._read_config()
                self._work(self._server.queue.pop(0))
                left = max(0.0, until - time.monotonic())
                self.board.next_pass_at = self.board.now() + timedelta(seconds=left)

    def _sleep(self, until: float) -> None:
        """Show how things are, then wait a little."""
        self.board.disk = disk.look(self.board.config)
        if self.board.disk.present and not self.board.clock:
            self._chores.tend(self.board.config, self.board.now().astimezone())
            self.board.care = care.load(self.board.config.data_dir)
            self.board.neglect = self._chores.trouble
        left = max(0.0, until - time.monotonic())
        if self.board.state is not ServerState.PREPARING or not self.board.reason:
            self.board.turn(ServerState.IDLE, f"sleeping {-(-int(left) // 60)} min")
        else:
            self.board.publish()
        self._tell(f"STATUS={self.board.activity}")
        end = min(until, time.monotonic() + NAP)
        while time.monotonic() < end and not self._server.queue and not self._wake:
            patience = min(end - time.monotonic(), max(1.0, self._watchdog or NAP))
            self._pulse(max(0.0, patience))

    def _work(self, request: Request | None) -> None:
        """Run what is due or what somebody asked for, and answer them."""
        self._server.busy = True
        self._server.stopped.clear()
        self._request = request
        try:
            attempts = actions.run_pass(
                self.board,
                self._pulse,
                target=request.target if request else None,
                observer=self._observe,
                cancelled=self._cancelled,
            )
            code, message = actions.exit_code(attempts), ""
            self.board.error = ""
            self._chores.wanted |= any(attempt.run is not None for attempt in attempts)
        except StoppedError as stop:
            if request:
                request.end(stop.exit_code, str(stop))
            raise
        except (NotNowError, UsageError) as error:
            code, message = error.exit_code, str(error)
            LOG.warning("%s", error)
        except FlashbackError as error:
            code, message = error.exit_code, str(error)
            self.board.error = message
            LOG.error("%s", error)
        except Exception as error:
            code, message = 1, f"an error in the engine itself: {error!r}"
            self.board.error = message
            LOG.exception("an error in the engine itself; the loop goes on")
        finally:
            self._server.busy = False
            self._request = None
        if request:
            request.end(code, message)

    def _cancelled(self, job: Job) -> bool:
        """Return whether somebody asked to stop this job."""
        return any(control.names(target, job) for target in list(self._server.stopped))

    def _observe(self, attempt: Attempt) -> None:
        line = describe(attempt)
        self._tell(f"STATUS={line}")
        if self._request:
            self._request.tell(
                {
                    "event": "job",
                    "job": attempt.job.name,
                    "state": attempt.state.value,
                    "reason": attempt.reason,
                    "run": attempt.run and run_document(attempt.run),
                    "line": line,
                }
            )

    def _read_config(self) -> None:
        """Take the new configuration, or keep the last good one and say so."""
        path = self.board.config.path
        seen = config_reader.signature(path)
        if seen is not None and seen == self._read:
            return
        try:
            fresh = config_reader.read(path, self._pulse)
        except StoppedError:
            raise
        except FlashbackError as error:
            if self.board.config_error != str(error):
                for line in error.problems if isinstance(error, ConfigError) else [str(error)]:
                    LOG.error("%s", line)
                LOG.error("the last good configuration stays in use")
            self.board.config_error = str(error)
            return
        if fresh.run_dir != self.board.config.run_dir:
            self.board.config_error = "run_dir has changed: restart the engine"
            LOG.error("%s", self.board.config_error)
            return
        self.board.config = fresh
        self.board.config_error = None
        self._read = seen

    def _pulse(self, patience: float = 0.0) -> None:
        """Serve the socket, pet the watchdog, pass on progress; raise StoppedError when told to stop."""
        if not self._stopping:
            self._server.serve(patience, self._alarm)
            with contextlib.suppress(BlockingIOError):
                os.read(self._alarm, 512)
        now = time.monotonic()
        if self._watchdog and now - self._petted >= self._watchdog:
            self._petted = now
            self._notify("WATCHDOG=1")
        if self._request and self.board.current:
            self._report(self._request, now)
        if self._stopping:
            raise StoppedError

    def _report(self, request: Request, now: float) -> None:
        if now - getattr(self, "_reported", 0.0) >= 1.0:
            self._reported = now
            running = self.board.current
            if running:
                request.tell({"event": "progress", "job": running.job.name, **asdict(running.progress)})

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._notify(line)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_wake(self, *_: object) -> None:
        self._wake = True


class _notifier:  # noqa: N801 - a function with its library loaded on first use
    """Sends a word to systemd, when it listens."""

    def __init__(self) -> None:
        self._send = None
        if "NOTIFY_SOCKET" in os.environ:
            import sdnotify  # noqa: PLC0415 - not needed outside systemd

            self._send = sdnotify.SystemdNotifier().notify

    def __call__(self, word: str) -> None:
        if self._send:
            self._send(word)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except FlashbackError as problem:
        print(f"flashback: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
