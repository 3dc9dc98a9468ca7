"""From the start of a service's process to its end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from tandem.core.errors import TandemError
from tandem.process.flags import with_flag

# Objects of each generation, a pass over the youngest takes about a millisecond.
GC_THRESHOLDS = (20_000, 20, 50)
END_WITH_PARENT = "TANDEM_END_WITH_PARENT"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
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
        sys.exit(f"error: {with_flag(error)}")


def begin() -> None:
    """To be called first of all in a service's process, before the imports that take their time. A
    supervisor or a signal can end it from here on, and until `settle` the garbage collector rests:
    whatever is imported and loaded stays, and looking at it again and again while it comes took a
    quarter of the time of importing torch."""
    end_with_parent()
    _end_on_signals()
    # It writes lines of its own to standard error, between ours and in no form, and can be told
    # only before it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    gc.disable()


def settle() -> None:
    """To be called once a service is put together: what is there by then stays, and the garbage
    collector need not look at it, not even now, which would take 0.3 s. It would do so every few
    seconds, for 100 ms in which no token leaves: mostly at imported modules. Nor need it look at
    all open streams whenever some hundreds of objects more are alive: that took a fifth of a
    gateway with thousands of them."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
    _give_back()


def _give_back() -> None:
    """Let the system have what was allocated for loading alone, tens of MiB. Elsewhere than with
    glibc it stays."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class StopSignals:
    """From its making on: `asked` is set by SIGTERM, which asks a service to end once it has done
    what it can of its work, and by SIGINT, which asks it to end at once. So does a second signal of
    either kind: `at_once` is set as well. But a service with a supervisor may be sent SIGTERM by
    that, and by whoever ends both: for it this is the same request."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self._is_supervised = bool(os.environ.get(END_WITH_PARENT))
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)

    async def wait_for(self, work: Coroutine[Any, Any, object], timeout_s: float) -> None:
        """Wait until `work` is done, but no longer than `timeout_s`, and not once the end is to be
        at once. What is not done by then is cancelled. Raises what `work` raises."""
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(self.at_once.wait())}
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()

    def _on_signal(self, number: signal.Signals) -> None:
        is_repeated = self.asked.is_set() and not self._is_supervised
        if number == signal.SIGINT or is_repeated:
            self.at_once.set()
        self.asked.set()


def _end_on_signals() -> None:
    """Until `StopSignals` listens, SIGTERM and SIGINT end this process. The kernel would see to
    that, but not for the first process of a container, where a signal without a handler is lost,
    nor where whoever started it ignores one."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


def end_with_parent() -> None:
    """If a supervisor asked for it, by its process id in the environment, have the kernel end this
    process with it. To be called before anything that takes its time, imports included."""
    parent = os.environ.get(END_WITH_PARENT)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("error: the supervisor ended before this process began")
