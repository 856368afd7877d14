"""How a long command is ended in an orderly way: by ctrl-C, SIGTERM or a terminal that closes."""

from __future__ import annotations

import signal

from flashback.model import Pulse


def asked() -> list[int]:
    """Return a list that receives the number of each signal to stop; who works looks into it now and then.

    A command begun with `nohup` goes on when its terminal closes.
    """
    received: list[int] = []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda number, _: received.append(number))
    return received


def stoppable(hint: str) -> Pulse:
    """Return a pulse that ends the work when somebody asks for it, and then says what goes on how."""
    from flashback.errors import StoppedError  # noqa: PLC0415 - only what this function needs

    stopping = asked()

    def pulse() -> None:
        if stopping:
            error = StoppedError()
            error.what, error.hint = "It was stopped", hint
            raise error

    return pulse
