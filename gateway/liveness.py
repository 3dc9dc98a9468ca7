"""Whether a worker is alive, as far as can be told from what it says. Pure."""

from __future__ import annotations

# A worker says something every 0.5 s. One that has said nothing for so long gets no new work.
SUSPECT_S = 1.5
# A link without a stream pauses, looks whether anybody listens, and opens one, again and again: at
# the latest, it is back so long after the network.
RETRY_S = 0.1
CONNECT_TIMEOUT_S = 1.0
OPEN_TIMEOUT_S = 1.5
RECONNECT_S = RETRY_S + CONNECT_TIMEOUT_S + OPEN_TIMEOUT_S
# For so long it keeps what it holds without hearing of its gateway, and can be resumed.
LEASE_S = 5.0
# What a turn of waiting counts for at the most: a turn that took longer did so on this process's
# account, which may need several to hear what was said.
MAX_TURN_S = 0.25


class Liveness:
    """What is known of one worker that has joined.

    It is suspected when it was silent for `SUSPECT_S`, and from when its stream broke until it has
    caught up over another, however long that takes; it is lost when it was silent for `LEASE_S`.
    What it says over a stream that breaks before it has caught up counts for nothing, so that a
    stream which always does is given up. Time is counted in turns of whoever waits: if it was this
    process that stood still, one turn passes, and then what the worker said meanwhile is read.
    """

    def __init__(self) -> None:
        self._broken = False
        self._silent_s = 0.0
        # Since it had last caught up.
        self._behind_s = 0.0

    @property
    def is_silent(self) -> bool:
        """For so long that another stream is to be tried."""
        return self._silent_s >= SUSPECT_S

    @property
    def is_suspect(self) -> bool:
        return self._broken or self.is_silent

    @property
    def is_lost(self) -> bool:
        return self._silent_s >= LEASE_S

    def wait(self, elapsed_s: float) -> None:
        """A turn has passed."""
        turn_s = min(elapsed_s, MAX_TURN_S)
        self._silent_s += turn_s
        self._behind_s += turn_s

    def break_stream(self) -> None:
        self._broken = True
        self._silent_s = self._behind_s

    def hear(self) -> None:
        """It was heard of, and has yet to apply what it missed while it had no stream."""
        self._silent_s = 0.0

    def trust(self) -> None:
        """It was heard of, and has applied all that it missed."""
        self._broken = False
        self._silent_s = self._behind_s = 0.0
