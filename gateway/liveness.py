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

    It is suspected while its stream is broken, and when it was silent for `SUSPECT_S`; if that goes
    on for `LEASE_S` it is lost. Time is counted in turns of whoever waits: if it was this process
    that stood still, one turn passes, and then what the worker said meanwhile is read.
    """

    def __init__(self) -> None:
        self._broken = False
        self._doubt_s = 0.0

    @property
    def is_suspect(self) -> bool:
        return self._broken or self._doubt_s >= SUSPECT_S

    @property
    def is_lost(self) -> bool:
        return self._doubt_s >= LEASE_S

    def wait(self, elapsed_s: float) -> None:
        """A turn has passed."""
        self._doubt_s += min(elapsed_s, MAX_TURN_S)

    def break_stream(self) -> None:
        self._broken = True

    def trust(self) -> None:
        """It was heard of, over a whole stream, and has applied all that it missed."""
        self._broken = False
        self._doubt_s = 0.0
