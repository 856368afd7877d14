"""Stand for the daemon between two passes: resident, asked over a socket, without its chores.

    python resident.py CONFIG SOCKET

A pass is the same function call that the daemon makes.  The chores, which the daemon would start right
after it, are measured apart; so they are not begun here.
"""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

from flashback import actions, clock, config
from flashback.errors import FlashbackError
from flashback.status import Board


def main(settings: Path, place: Path) -> None:
    """Answer each connection with how a pass ended: its exit status and a line."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ear:
        ear.bind(str(place))
        ear.listen(1)
        while True:
            connection, _ = ear.accept()
            with connection:
                connection.sendall(answer(settings).encode())


def answer(settings: Path) -> str:
    """Return the exit status of a pass, and what to say about it."""
    try:
        made = actions.run_pass(Board(config.load(settings), clock.now), lambda: None, target="laptop")
    except FlashbackError as error:
        return f"{error.exit_code} {error}"
    return f"{actions.exit_code(made)} {'; '.join(each.reason for each in made)}"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
