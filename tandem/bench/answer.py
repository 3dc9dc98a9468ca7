"""One answer as its client saw it: which tokens came when."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

from tandem.bench.workload import Prompt


@dataclass(slots=True)
class Answer:
    """Times are seconds of one monotonic clock.

    `arrivals` are pairs of a time and the number of tokens that had come by then, increasing in
    both. How many tokens a chunk has is told by the server, not by the number of chunks: what it
    does not count is not `is_counted`, and has a token a chunk. Until it is sent, `sent_s` is when
    it was due. `told` is what else the server says of it, by its names:
    `prompt_tokens`, `cached_tokens` and Tandem's own. `found_nobody`: there was no connection to
    ask over, or gRPC's UNAVAILABLE, which may be that. An open loop says whether it `is_measured`.
    """

    prompt: Prompt
    sent_s: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    error: str = ""
    found_nobody: bool = False
    may_be_shorter: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    is_measured: bool = False
    is_counted: bool = True

    @property
    def num_tokens(self) -> int:
        return self.arrivals[-1][1] if self.arrivals else 0

    def note(self, now_s: float, num_tokens: int) -> None:
        """So many tokens have come by now. Chunks without a new one count for nothing."""
        if num_tokens > self.num_tokens:
            self.arrivals.append((now_s, num_tokens))

    def settle(self, num_tokens: int) -> None:
        """So many tokens came in all, says a server that did not say which chunk had how many."""
        if self.arrivals:
            last_s, _ = self.arrivals[-1]
            earlier = [each for each in self.arrivals[:-1] if each[1] < num_tokens]
            self.arrivals = [*earlier, (last_s, num_tokens)]

    def problem(self) -> str:
        """Why the answer is not what was asked for; empty if it is."""
        if self.error:
            return self.error
        least = 1 if self.may_be_shorter else self.prompt.num_output
        if not least <= self.num_tokens <= self.prompt.num_output:
            what = (
                "tokens" if self.is_counted else "pieces, whose tokens the server does not count,"
            )
            return f"{self.num_tokens} {what} came, {self.prompt.num_output} were asked for"
        return ""

    def ttft_s(self) -> float:
        """Time to first token: from the request."""
        return self.arrivals[0][0] - self.sent_s

    def tpot_s(self) -> float:
        """Time per output token: from the first to the last one, for each after the first."""
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / (self.num_tokens - 1)

    def itl_s(self, start_s: float = -inf, end_s: float = inf) -> list[float]:
        """Inter-token latencies: between a chunk that brought tokens and the next such, those that
        ended in the window. A chunk of several tokens was waited for once, and counts once."""
        return [
            now_s - last_s
            for (last_s, _), (now_s, _) in pairwise(self.arrivals)
            if start_s <= now_s <= end_s
        ]

    def tokens_between(self, start_s: float, end_s: float) -> int:
        """How many tokens came in the window."""
        counted, last = 0, 0
        for now_s, num in self.arrivals:
            if start_s <= now_s <= end_s:
                counted += num - last
            last = num
        return counted
