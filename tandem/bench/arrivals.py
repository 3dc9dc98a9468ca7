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


def gamma_arrivals(rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """The same, more or less regular: the times between two arrivals are of a gamma distribution
    with the shape `burstiness`, as `vllm bench serve` has it. 1 is Poisson; below that they come in
    bursts, above it more evenly."""
    rng = random.Random(f"arrivals {seed} {burstiness:g}")
    at = 0.0
    while True:
        at += rng.gammavariate(burstiness, 1 / burstiness)
        yield at / rate
