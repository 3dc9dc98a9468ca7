"""Time in the simulation."""

from __future__ import annotations

from random import Random

from tandem.v1 import worker_pb2


class Clock:
    """Times that mean nothing, but that decisions depend on."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now_ns = 0

    def now_ns(self) -> int:
        """Later than the last time."""
        self._now_ns += self._duration_ns()
        return self._now_ns

    def now_s(self) -> float:
        """Likewise, in seconds."""
        return self.now_ns() / 1e9

    def step(self, num_prefill_tokens: int) -> worker_pb2.Span:
        """A step of so many prompt tokens."""
        return worker_pb2.Span(
            kind=worker_pb2.SPAN_KIND_STEP,
            end_ns=self._duration_ns(),
            num_prefill_tokens=num_prefill_tokens,
        )

    def _duration_ns(self) -> int:
        return int(10 ** self._random.uniform(5, 9))
