"""The daemon's ear: a Unix socket over which the command line asks for work and hears how it goes.

One JSON object per line in both directions.  The client sends one request,

    {"do": "pass" | "backup" | "stop", "target": "HOST/VOLUME/LABEL" | null, "wait": true | false}

and gets events until {"event": "end", "exit": N, "message": "..."}.  The daemon has one
thread for that: it serves the socket between and during transfers and queues what it is asked.
`stop` is not queued: it is noted in `stopped` at once, and whoever runs the job looks there.
The sacred rule: a slow, silent or vanished client never holds up a backup.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashback.errors import NotNowError, UsageError
from flashback.model import Job

NAME = "control"
# Larger requests are nonsense.
LIMIT = 65536


@dataclass
class Request:
    """Somebody's wish, with the connection to answer on."""

    do: str
    target: str | None
    client: _Client

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to whoever asked; a client that does not listen is dropped."""
        self.client.send(event)

    def end(self, code: int, message: str = "") -> None:
        """Send the result and hang up."""
        self.tell({"event": "end", "exit": code, "message": message})
        self.client.close()


@dataclass
class _Client:
    connection: socket.socket
    received: bytes = b""
    open: bool = field(default=True)

    def send(self, event: dict[str, Any]) -> None:
        if self.open:
            try:
                self.connection.sendall(json.dumps(event).encode() + b"\n")
            except OSError:
                self.close()

    def close(self) -> None:
        self.open = False
        self.connection.close()


class Server:
    """The listening side; `queue` holds the wishes in the order they came."""

    def __init__(self, run_dir: Path) -> None:
        self.queue: list[Request] = []
        self.stopped: list[str] = []
        self.busy = False
        self._clients: list[_Client] = []
        self._path = run_dir / NAME
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        former = os.umask(0o117)
        try:
            self._listener.bind(str(self._path))
        finally:
            os.umask(former)
        self._listener.listen(8)

    def serve(self, patience: float = 0.0, also: int | None = None) -> None:
        """Take in what has come; wait at most `patience` seconds for it, or for the descriptor `also`."""
        self._clients = [client for client in self._clients if client.open]
        watched: list[Any] = [self._listener, *(client.connection for client in self._clients)]
        ready, _, _ = select.select([*watched, *([] if also is None else [also])], [], [], patience)
        if self._listener in ready:
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._clients.append(_Client(connection))
        for client in self._clients:
            if client.connection in ready:
                self._receive(client)

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        for request in self.queue:
            request.end(NotNowError.exit_code, "The engine is being stopped")
        for client in self._clients:
            client.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > LIMIT:
            client.close()
        elif b"\n" in client.received:
            self._accept(client, client.received.partition(b"\n")[0])
            client.received = b""

    def _accept(self, client: _Client, line: bytes) -> None:
        request = _request(client, line)
        if request is None:
            client.send(
                {"event": "end", "exit": UsageError.exit_code, "message": "The request is not understood"}
            )
            client.close()
            return
        wish, wait = request
        if wish.do == "stop":
            self.stopped.append(wish.target or "")
            wish.end(0)
            return
        if (self.busy or self.queue) and not wait:
            wish.end(NotNowError.exit_code, "Another run is active. Wait for it with --wait")
            return
        self.queue.append(wish)
        wish.tell({"event": "queued", "position": len(self.queue)})


def _request(client: _Client, line: bytes) -> tuple[Request, bool] | None:
    try:
        asked = json.loads(line)
    except ValueError:
        return None
    if not isinstance(asked, dict) or asked.get("do") not in ("pass", "backup", "stop"):
        return None
    target = asked.get("target")
    if not isinstance(target, (str, type(None))) or (target is None and asked["do"] == "backup"):
        return None
    return Request(asked["do"], target, client), bool(asked.get("wait"))


def names(target: str, job: Job) -> bool:
    """Return whether HOST, HOST/VOLUME, HOST/VOLUME/LABEL or nothing at all names a job."""
    parts = target.strip("/").split("/") if target.strip("/") else []
    return [job.host, job.volume, job.label][: len(parts)] == parts


def ask(run_dir: Path, do: str, target: str | None, wait: bool) -> Iterator[dict[str, Any]] | None:
    """Return the events that answer a wish, or None when no daemon listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(run_dir / NAME))
    except PermissionError:
        connection.close()
        raise UsageError(
            f"The engine's socket in {run_dir} may not be used by this user",
            "Run it as root or as a member of its group",
        ) from None
    except OSError:
        connection.close()
        return None
    return _events(connection, {"do": do, "target": target, "wait": wait})


def _events(connection: socket.socket, wish: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with connection:
        connection.sendall(json.dumps(wish).encode() + b"\n")
        with connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    yield {"event": "end", "exit": 1, "message": "The engine went away in the middle of it"}
