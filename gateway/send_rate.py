"""How fast a prefill worker sends KV, learned from the frames that it has sent."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from tandem.core.pipeline import covered_ns
from tandem.core.reports import Span

END = attrgetter("end_ns")
# How much of what was seen before still counts after one more frame.
DECAY = 0.98


class SendRate:
    """The recent frames' bytes by the time in which at least one of them was under way: frames of
    several transfers are sent at once, and share what the way out carries. A frame is heard of when
    it has ended: of one that lasted longer than those told before it, only the rest counts."""

    def __init__(self) -> None:
        self._num_bytes = 0.0
        self._ns = 0.0
        self._heard_until_ns: int | None = None

    def observe(self, frames: Sequence[Span]) -> None:
        """These were sent since the last call."""
        if not frames:
            return
        kept = DECAY ** len(frames)
        self._num_bytes = kept * self._num_bytes + sum(each.num_bytes for each in frames)
        self._ns = kept * self._ns + covered_ns(frames, self._heard_until_ns)
        last_ns = max(map(END, frames))
        self._heard_until_ns = max(last_ns, self._heard_until_ns or last_ns)

    def seconds(self, num_bytes: int) -> float:
        """How long so many bytes will take; 0 while nothing is known."""
        return num_bytes * self._ns / self._num_bytes / 1e9 if self._num_bytes else 0.0
