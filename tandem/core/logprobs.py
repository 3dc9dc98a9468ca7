"""Log-probabilities, as they are reported with a token."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

LEAST_LOGPROB = -9999.0
"""OpenAI's number for what has no probability, and here also for what is no number."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A sampled token's log-probability, and those of the likeliest tokens at its place: the
    likeliest first, of equals the lowest id first. The latter are kept as 32-bit numbers: a client
    that does not read leaves many of them lying."""

    logprob: float
    top_ids: array[int]
    top_logprobs: array[float]

    @classmethod
    def of(
        cls, logprob: float, top_ids: Iterable[int] = (), top_logprobs: Iterable[float] = ()
    ) -> TokenLogprobs:
        return cls(logprob, array("I", top_ids), array("f", top_logprobs))

    @property
    def top(self) -> Iterable[tuple[int, float]]:
        """Each of the likeliest tokens' id, and its log-probability."""
        return zip(self.top_ids, self.top_logprobs, strict=True)
