"""Being told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def on_stop_signals(call: Callable[[], object]) -> Iterator[None]:
    """Within this, each signal to stop calls it, and does nothing else: a second Ctrl-C no more
    than the first. A SIGHUP that nohup has ignored stays so."""
    loop = asyncio.get_running_loop()
    numbers = [
        each
        for each in SIGNALS
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN
    ]
    for number in numbers:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
