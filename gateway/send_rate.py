"""How fast a prefill worker sends KV, learned from the frames that it has sent."""

from __future__ import annotations

# How much of what was seen before still counts after one more frame.
DECAY = 0.98


class SendRate:
    """The recent frames' bytes by the time that they took."""

    def __init__(self) -> None:
        self._num_bytes = 0.0
        self._seconds = 0.0

    def observe(self, num_bytes: int, seconds: float) -> None:
        """A frame was sent."""
        self._num_bytes = DECAY * self._num_bytes + num_bytes
        self._seconds = DECAY * self._seconds + seconds

    def seconds(self, num_bytes: int) -> float:
        """How long so many bytes will take; 0 while nothing is known."""
        return num_bytes * self._seconds / self._num_bytes if self._num_bytes else 0.0
