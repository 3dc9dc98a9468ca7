"""From the start of a service's process to its end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine

from tandem.core.errors import TandemError

# Objects of each generation, a pass over the youngest takes about a millisecond.
GC_THRESHOLDS = (20_000, 20, 50)
END_WITH_PARENT = "TANDEM_END_WITH_PARENT"
_PR_SET_PDEATHSIG = 1


def run(
    service: Coroutine[None, None, None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run a service to its end; a `TandemError` becomes one line and exit status 1."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(service)
    except TandemError as error:
        sys.exit(f"error: {error.message}")


def settle() -> None:
    """To be called once a service is put together: what is there by then stays, and the garbage
    collector need not look at it again. It would do so every few seconds, for 100 ms in which no
    token leaves: mostly at imported modules. Nor need it look at all open streams whenever some
    hundreds of objects more are alive: that took a fifth of a gateway with thousands of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def stop_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def end_on_sigterm() -> None:
    """Until `stop_signal` listens, SIGTERM ends this process. The kernel would see to that, but not
    for the first process of a container: there a signal without a handler is lost. To be called
    before anything that takes its time."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def end_with_parent() -> None:
    """If a supervisor asked for it, by its process id in the environment, have the kernel end this
    process with it. To be called before anything that takes its time, imports included."""
    parent = os.environ.get(END_WITH_PARENT)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("error: the supervisor ended before this process began")
