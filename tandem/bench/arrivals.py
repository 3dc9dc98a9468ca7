"""When requests arrive."""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson_arrivals(rate: float, seed: int) -> Iterator[float]:
    """Endless times, in seconds from the start, `rate` a second on average.

    Those of one seed at another rate are the same, stretched: what differs between two runs is
    then the rate, or the server, and not the luck of the draw.
    """
    rng = random.Random(f"arrivals {seed}")
    at = 0.0
    while True:
        at += rng.expovariate(1.0)
        yield at / rate
