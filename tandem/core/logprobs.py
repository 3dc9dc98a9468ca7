"""Log-probabilities, as they are reported with a token."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_LOGPROB = -9999.0
"""OpenAI's number for what has no probability, and here also for what is no number."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A sampled token's log-probability, and those of the likeliest tokens at its place: (token id,
    log-probability), the likeliest first, of equals the lowest id first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
