"""Being told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded_signals() -> list[signal.Signals]:
    """All but a SIGHUP that nohup(1) has ignored."""
    is_lasting = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [each for each in SIGNALS if not (each == signal.SIGHUP and is_lasting)]


@contextmanager
def on_stop_signals(call: Callable[[], object]) -> Iterator[None]:
    """Within this, each signal to stop calls it, and does nothing else: a second Ctrl-C no more
    than the first."""
    loop = asyncio.get_running_loop()
    numbers = heeded_signals()
    for number in numbers:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
