"""Few lines of a flood."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from math import inf

LOG_EVERY_S = 10.0


class RareLines:
    """Of each kind of thing that happens the first has a line in the log, and then one in `every_s`
    at most. Kinds are kept, and so have to be few."""

    def __init__(
        self, every_s: float = LOG_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` tells monotonic seconds."""
        self._every_s = every_s
        self._clock = clock
        self._untold = Counter[Hashable]()
        self._quiet_until_s: dict[Hashable, float] = {}

    def due(self, kind: Hashable) -> int:
        """One more has happened: how many a line stands for, if it is time for one; else 0."""
        self._untold[kind] += 1
        now = self._clock()
        if now < self._quiet_until_s.get(kind, -inf):
            return 0
        self._quiet_until_s[kind] = now + self._every_s
        return self._untold.pop(kind)
