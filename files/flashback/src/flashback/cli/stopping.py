"""How a long command is ended in an orderly way: by ctrl-C, SIGTERM or a terminal that closes."""

from __future__ import annotations

import signal


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
