"""Lets requests in a few at a time, however many come at once, and tenants by turns."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable

from gateway.fair_queue import FairQueue, Work
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenants

# In a turn of the event loop: some tens of milliseconds of work. Between two turns tokens go on,
# and workers are told that their controller lives.
PER_TURN = 8
# Who would wait longer for a turn had better come again.
MAX_WAIT_S = 5.0
# What a turn takes, as long as none was measured, and how much each that is counts.
FIRST_TURN_S = 0.02
NEWEST_TURN_WEIGHT = 0.125


class Turnstile:
    """The line of those that have come and were not let in yet."""

    def __init__(
        self, tenants: Tenants = ONE_TENANT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self._weights = {name: tenant.weight for name, tenant in tenants.items()}
        # How long it may be is asked by the time that it takes, see `wait_s`.
        self._line = FairQueue[tuple[Work, Callable[[], None]]](tenants, sys.maxsize)
        self._num_waiting = Counter[str]()
        # A moving average.
        self._turn_s = FIRST_TURN_S
        # When the turn before was, if there was a line behind it.
        self._turned_s: float | None = None

    def wait_s(self, tenant: str = DEFAULT_TENANT) -> float:
        """How long who comes now will wait, by the pace of late: for its tenant's own that wait,
        and for as many of each other's as have their turns meanwhile."""
        if not self._num_waiting:
            return 0.0
        num_own = self._num_waiting.get(tenant, 0)
        num_rounds = (num_own + 1) / self._weights[tenant]
        num_others = sum(
            min(num, num_rounds * self._weights[other])
            for other, num in self._num_waiting.items()
            if other != tenant
        )
        return (num_own + num_others) / PER_TURN * self._turn_s

    def enter(self, start: Callable[[], None], tenant: str = DEFAULT_TENANT) -> None:
        """Have `start` called when it is its turn."""
        if not self._num_waiting:
            self._let_in_soon()
        work = Work(tenant, 1)
        self._line.push(work, (work, start))
        self._num_waiting[tenant] += 1

    def _let_in_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        self._measure()
        turn = [self._next() for _ in range(min(PER_TURN, self._num_waiting.total()))]
        if self._num_waiting:
            self._turned_s = self._clock()
            self._let_in_soon()
        for start in turn:
            start()

    def _next(self) -> Callable[[], None]:
        taken = self._line.take()
        assert taken, "it is asked as often as somebody waits"
        work, start = taken
        self._line.end(work)
        self._num_waiting[work.tenant] -= 1
        if not self._num_waiting[work.tenant]:
            del self._num_waiting[work.tenant]
        return start

    def _measure(self) -> None:
        """A turn lasts until the next, with all that the event loop does between: those that were
        let in, and the tokens of others."""
        if self._turned_s is not None:
            turn_s = self._clock() - self._turned_s
            self._turn_s += NEWEST_TURN_WEIGHT * (turn_s - self._turn_s)
            self._turned_s = None
