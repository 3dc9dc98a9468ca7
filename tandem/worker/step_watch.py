"""A step that never ends, as one whose kernel hangs, a sequence's preparation, or a copy of KV; and
the end of its process.

Whatever waits for such a one waits for ever, the end of the process included; but the event loop
goes on, heartbeats too, and whoever hears them believes that all is well. So it is the event loop
that watches them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import structlog

from tandem.core.plan import StepPlan

log = structlog.get_logger(__name__)

# The exit status of a process that ends without waiting for its engine.
HUNG_STATUS = 70
# How long it may take to say why.
SAY_S = 1.0
# How often it is looked at the step.
TURN_S = 0.25


class Watch:
    """For how long the same step, or copy, has been under way. Pure.

    Time is counted in turns of whoever looks, `TURN_S` each, however long it took: if it was the
    whole process that stood still, or its machine, one turn passes.
    """

    def __init__(self, timeout_s: float) -> None:
        """With a timeout of 0 it may take for ever."""
        self._timeout_s = timeout_s
        self._seen: object = None
        self._num_turns = 0

    def hangs(self, under_way: object) -> bool:
        """A turn has passed, and this is under way, or None: whether it takes too long."""
        if under_way is None or under_way is not self._seen:
            self._seen, self._num_turns = under_way, 0
            return False
        self._num_turns += 1
        return 0 < self._timeout_s <= self._num_turns * TURN_S


def end_at_once(why: str) -> NoReturn:
    """End this process, and wait for none of its threads. Its connections close with it, so what it
    held goes on elsewhere at once; whoever supervises it starts it anew."""
    _after(SAY_S, _exit)
    _say_and_exit(why)


async def watch_work(
    sources: Sequence[Callable[[], object]],
    timeout_s: float,
    end: Callable[[str], object] = end_at_once,
) -> None:
    """End the process once something hangs of what the sources say is under way: each a plan of a
    step, or the name of something else, or None."""
    watches = [(under_way, Watch(timeout_s)) for under_way in sources]
    while True:
        await asyncio.sleep(TURN_S)
        for under_way, watch in watches:
            if watch.hangs(work := under_way()):
                end(f"{_describe(work)} has not ended for {timeout_s:g} s")
                return


def end_within(timeout_s: float, under_way: Callable[[], StepPlan | None]) -> None:
    """The process ends now, and does so at once if that takes too long: whichever of its threads
    hangs, and whoever waits for it, the interpreter included."""

    def end() -> None:
        _say_and_exit(f"the end took longer than {timeout_s:g} s, with {_describe(under_way())}")

    _after(timeout_s, end)
    # Already now: while the interpreter ends there are no new threads.
    _after(timeout_s + SAY_S, _exit)


def _say_and_exit(why: str) -> NoReturn:
    """Beside a timer that exits, too: words wait for ever in a pipe that is full, and that nobody
    reads."""
    log.error("ending at once", why=why)
    # A supervisor repeats a process's last line.
    with suppress(OSError, ValueError):
        print(f"error: {why}", file=sys.stderr, flush=True)
    _exit()


def _exit() -> NoReturn:
    os._exit(HUNG_STATUS)


def _after(seconds: float, act: Callable[[], object]) -> None:
    """Do so on a thread of its own, for which no process stays."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _describe(under_way: object) -> str:
    if under_way is None:
        return "no step"
    if not isinstance(under_way, StepPlan):
        return str(under_way)
    num_seqs, num_tokens = len(under_way.slices), under_way.num_tokens
    return f"step {under_way.number} of {num_seqs} sequences and {num_tokens} tokens"
