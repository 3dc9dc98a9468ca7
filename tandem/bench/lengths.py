"""How long prompts and answers are."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, replace

from tandem.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens: log-normal, cut off at both ends. `spread` is the standard deviation of
    the logarithm; without it all are the median."""

    median: float
    spread: float = 0.0
    at_least: int = 1
    at_most: int = 1 << 20

    @classmethod
    def of_mean(
        cls, mean: float, spread: float, at_least: int = 1, at_most: int = 1 << 20
    ) -> Lengths:
        """Those whose mean is known instead of the median; before they are cut off."""
        return cls(mean * math.exp(-(spread**2) / 2), spread, at_least, at_most)

    def draw(self, rng: random.Random) -> int:
        """One number of tokens."""
        drawn = round(rng.lognormvariate(math.log(self.median), self.spread))
        return min(max(drawn, self.at_least), self.at_most)

    def scaled(self, factor: float) -> Lengths:
        """As much longer or shorter, where they are cut off as well."""
        return replace(
            self,
            median=self.median * factor,
            at_least=max(1, round(self.at_least * factor)),
            at_most=max(1, round(self.at_most * factor)),
        )


@dataclass(frozen=True, slots=True)
class UniformLengths:
    """Numbers of tokens, all from `low` to `high` alike."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        """One number of tokens."""
        return rng.randint(self.low, self.high)

    def scaled(self, factor: float) -> UniformLengths:
        """As much longer or shorter."""
        return UniformLengths(
            max(1, round(self.low * factor)),
            max(1, round(self.high * factor)),
        )


def parse_lengths(text: str) -> UniformLengths:
    """`512`, or `100:900`. Raises `ConfigError`."""
    match = re.fullmatch(r"(\d{1,7})(?::(\d{1,7}))?", text, re.ASCII)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise ConfigError(f"no length: {text!r:.40}; write tokens, 512, or a range, 100:900")
    return UniformLengths(low, high)
