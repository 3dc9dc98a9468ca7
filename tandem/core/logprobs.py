"""Log-probabilities, as they are reported with a token."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class LogprobColumns:
    """Those of tokens in a row, as many as a prompt has, in columns: their own, and those of as
    many likeliest tokens at each place."""

    logprobs: array[float] = field(default_factory=lambda: array("f"))
    top_ids: array[int] = field(default_factory=lambda: array("I"))
    top_logprobs: array[float] = field(default_factory=lambda: array("f"))

    @property
    def num_top(self) -> int:
        """Likeliest tokens at each place."""
        return len(self.top_ids) // max(1, len(self))

    @property
    def num_in_all(self) -> int:
        """Log-probabilities, those of the likeliest tokens counted in."""
        return len(self.logprobs) + len(self.top_logprobs)

    def extend(self, others: LogprobColumns) -> None:
        """Add those of the tokens that follow."""
        self.logprobs.extend(others.logprobs)
        self.top_ids.extend(others.top_ids)
        self.top_logprobs.extend(others.top_logprobs)

    def __len__(self) -> int:
        """Tokens."""
        return len(self.logprobs)

    def __getitem__(self, index: int) -> TokenLogprobs:
        top = slice(index * self.num_top, (index + 1) * self.num_top)
        return TokenLogprobs(self.logprobs[index], self.top_ids[top], self.top_logprobs[top])
