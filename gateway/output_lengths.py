"""How much a request will generate, learned from those that have ended.

A client's `max_tokens` bounds an answer and says little of its length: who leaves it out may have
all that fits the model. To keep blocks for the bound is to leave most of a pool empty; to keep none
is to preempt. So admission counts with what answers were seen to take.
"""

from __future__ import annotations

from math import ceil, sqrt

# Answers that must have ended before anything is concluded from them.
MIN_OBSERVED = 8
# How long one is thought to be until then, as they go and at the most.
FIRST_LENGTH = 64
FIRST_EXPECTED = 1024
# How much the newest answer weighs.
WEIGHT = 1 / 32


class OutputLengths:
    """Mean and variance of the lengths of answers, the newest counting most."""

    def __init__(self) -> None:
        self._num_observed = 0
        self._mean = 0.0
        self._variance = 0.0

    def observe(self, num_tokens: int) -> None:
        """An answer has ended, with so many tokens."""
        self._num_observed += 1
        weight = max(WEIGHT, 1 / self._num_observed)
        error = num_tokens - self._mean
        self._mean += weight * error
        self._variance = (1 - weight) * (self._variance + weight * error**2)

    def typical(self, max_tokens: int) -> int:
        """Tokens of an answer as they go; a guess while few have ended."""
        return min(max_tokens, ceil(self._mean) if self._is_known else FIRST_LENGTH)

    def expect(self, num_generated: int, max_tokens: int) -> int:
        """Tokens that an answer will have in the end which has `num_generated` now: a deviation
        more than the mean; what has outlived that is thought to be half through."""
        is_known = self._is_known
        expected = ceil(self._mean + sqrt(self._variance)) if is_known else FIRST_EXPECTED
        return min(max_tokens, max(expected, 2 * num_generated))

    @property
    def _is_known(self) -> bool:
        return self._num_observed >= MIN_OBSERVED
