"""How it stands with the worker at one address: it has joined, may be lost, is lost, or has left.

That is decided here, without waiting for anything, and told to the listener once each; the link
(`worker_link.py`) connects, reads and writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from time import monotonic

import structlog

from gateway.command_log import CommandLog
from gateway.link_listener import LinkListener
from gateway.liveness import LEASE_S, Liveness
from tandem.core.errors import Fenced, TandemError, Unavailable
from tandem.core.worker import WorkerInfo

log = structlog.get_logger(__name__)

# A gateway that holds a worker for longer is alive: the lease of a dead one is over by then.
HELD_S = LEASE_S + 2.0
# Why there is no worker is told when it changes, but one reason no more often than that until one
# joins: two may alternate without end, as gRPC's words for a connection that is closed at once do.
MAX_TOLD = 2


class Standing:
    """`info` is that of the worker that has joined, and is not lost; `commands` are what it was
    sent."""

    def __init__(self, address: str, listener: LinkListener, hang_up: Callable[[], None]) -> None:
        """`hang_up` is called for a stream over which nothing is heard, or nothing should be."""
        self.info: WorkerInfo | None = None
        self.commands = CommandLog()
        self.is_leaving = False
        """It is let go: the end of its stream is its own."""
        self._address = address
        self._listener = listener
        self._hang_up = hang_up
        self._liveness = Liveness()
        self._is_told_suspect = False
        # Why it has not joined, and how often each reason was told.
        self._last_problem = ""
        self._num_told = Counter[str]()
        # Since when another gateway holds the worker; inf once that was told.
        self._held_since: float | None = None

    def join(self, info: WorkerInfo) -> None:
        """It answers, and is taken. Raises `Mismatch` if it does not fit the others by now."""
        self._listener.admits(info)
        self.info = info
        self._liveness = Liveness()
        self._is_told_suspect = self.is_leaving = False
        self._last_problem = ""
        self._num_told.clear()
        self._held_since = None
        log.info("worker joined", worker=info.worker_id, address=self._address)
        self._listener.joined(info, self._address)

    def wait(self, elapsed_s: float) -> None:
        """A turn has passed in which it may have been silent."""
        if self.info is None:
            return
        self._liveness.wait(elapsed_s)
        if self._liveness.is_lost:
            self.lose(Unavailable(f"it was not heard of for {LEASE_S} s"))
        elif self._liveness.is_silent:
            # Over a new connection it may be heard.
            self._hang_up()
        self._tell()

    def applied(self, number: int) -> None:
        """It was heard of, and has applied commands up to `number`."""
        if self.commands.applied(number):
            self._liveness.trust()
            self._tell()
        else:
            self._liveness.hear()

    def broken(self, error: TandemError) -> None:
        """Its stream is no more, or could not be opened."""
        if self.is_leaving:
            self._leave()
        elif self.info is None:
            self._tell_problem(error)
        elif isinstance(error, Fenced):
            # The lease is over, and what we had there with it.
            self.lose(error)
        else:
            if not self._is_told_suspect:
                log.warning("stream broke", worker=self.info.worker_id, why=error.message)
            self._liveness.break_stream()
            if self._liveness.is_lost:
                self.lose(error)
            self._tell()

    def lose(self, error: TandemError) -> None:
        """It is gone, with all that it held. Idempotent."""
        info = self._forget()
        self._hang_up()
        if info:
            log.error("worker lost", worker=info.worker_id, why=error.message)
            try:
                self._listener.lost(info, Unavailable(f"worker {info.worker_id} was lost"))
            except Exception:
                # Also a bug of ours; the link must not end with it.
                log.exception("listener failed", address=self._address)

    def fail(self, error: Exception) -> None:
        """A bug of ours. The worker's requests fail and it joins anew; else it would be served by
        nobody, and nobody would know."""
        log.error("link failed", address=self._address, exc_info=error)
        self.lose(TandemError(f"the link failed: {type(error).__name__}"))

    def _leave(self) -> None:
        """The stream has ended by our goodbye. If it broke before, the lease will run out."""
        self.is_leaving = False
        if info := self._forget():
            log.info("worker left", worker=info.worker_id)
            self._listener.left(info)

    def _forget(self) -> WorkerInfo | None:
        info, self.info = self.info, None
        self.commands = CommandLog()
        return info

    def _tell(self) -> None:
        """Let the listener know whether it may be lost, if that has changed."""
        is_suspect = self._liveness.is_suspect
        if self.info and is_suspect is not self._is_told_suspect:
            self._is_told_suspect = is_suspect
            (self._listener.suspected if is_suspect else self._listener.trusted)(self.info)

    def _tell_problem(self, error: TandemError) -> None:
        why = error.message
        if why != self._last_problem and self._num_told[why] < MAX_TOLD:
            self._num_told[why] += 1
            log.warning("no worker yet", address=self._address, why=why)
        self._last_problem = why
        self._tell_if_held(error)

    def _tell_if_held(self, error: TandemError) -> None:
        """Say once that another gateway holds the worker, and is not going to end. Once it was
        said, a call that fails meanwhile makes it no news."""
        if not isinstance(error, Fenced):
            if self._held_since != inf:
                self._held_since = None
        elif self._held_since is None:
            self._held_since = monotonic()
        elif monotonic() - self._held_since > HELD_S:
            self._held_since = inf
            mend = "give each gateway its own workers, or start them all with --standby"
            log.error("another gateway's worker", address=self._address, why=error.message, do=mend)
