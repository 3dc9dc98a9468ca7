"""Who is turned away at the door: before more is known of a request than that it came."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from math import inf

import structlog

log = structlog.get_logger(__name__)

LOG_EVERY_S = 10.0


class Refusals:
    """Counts them. Of a flood there are few lines in the log: of each `why` the first, and then one
    in `LOG_EVERY_S` at most, with how many it stands for."""

    def __init__(
        self, counts: Counter[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`counts` are those by reason to add to. `clock` tells monotonic seconds."""
        self._counts = Counter[str]() if counts is None else counts
        self._clock = clock
        self._untold = Counter[str]()
        self._quiet_until_s: dict[str, float] = {}

    def add(self, reason: str, why: str) -> None:
        """One was refused. `why` is one of few: it has nothing of the request in it."""
        self._counts[reason] += 1
        self._untold[why] += 1
        now = self._clock()
        if now >= self._quiet_until_s.get(why, -inf):
            self._quiet_until_s[why] = now + LOG_EVERY_S
            log.warning("requests refused", outcome=reason, why=why, num=self._untold.pop(why))
