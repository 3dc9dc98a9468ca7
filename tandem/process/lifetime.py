"""From the start of a service's process to its end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Coroutine

from tandem.core.errors import TandemError

END_WITH_PARENT = "TANDEM_END_WITH_PARENT"
_PR_SET_PDEATHSIG = 1


def run(
    service: Coroutine[None, None, None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run a service to its end; a `TandemError` becomes one line and exit status 1."""
    _end_with_parent()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(service)
    except TandemError as error:
        sys.exit(f"error: {error.message}")


async def stop_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def _end_with_parent() -> None:
    """If the supervisor asked for it, have the kernel end this process with its parent."""
    if os.environ.get(END_WITH_PARENT) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
