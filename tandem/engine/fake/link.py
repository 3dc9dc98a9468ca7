"""The virtual link over which KV leaves a fake device."""

from __future__ import annotations

import threading

from tandem.engine.fake.clock import Clock, wait_until


class VirtualLink:
    """Carries one load at a time; who comes while it is busy waits behind those before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def carry(self, seconds: float) -> None:
        """Block the calling thread until a load that takes `seconds` has passed."""
        with self._lock:
            self._free_at = max(self._clock.now(), self._free_at) + seconds
            arrival = self._free_at
        wait_until(self._clock, arrival)
