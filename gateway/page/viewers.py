"""Who looks at the page: ticks are made while somebody does, once for all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from tandem.core.errors import ResourceExhausted

log = structlog.get_logger(__name__)

TICK_S = 0.25
MAX_VIEWERS = 16
# What a viewer may be behind, and sees of the past when it comes: 10 s.
MAX_KEPT = 40
RETRY_AFTER_S = 5.0

Tick = Callable[[], Awaitable[bytes]]


class Viewers:
    """A bounded number of viewers, and the newest ticks, which they read each at its own pace."""

    def __init__(
        self, open_feed: Callable[[], Tick], is_stopping: Callable[[], bool], tick_s: float = TICK_S
    ) -> None:
        """`open_feed` is called when the first viewer comes, and what it returns every `tick_s`
        until the last has left, or the gateway is stopping."""
        self._open_feed = open_feed
        self._is_stopping = is_stopping
        self._tick_s = tick_s
        self._num_viewers = 0
        self._ticking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.has_ended = False
        self.num_made = 0
        self._kept: deque[bytes] = deque(maxlen=MAX_KEPT)

    @contextmanager
    def join(self) -> Iterator[Viewer]:
        """One more looks. Raises `ResourceExhausted` if that is one too many."""
        if self._num_viewers >= MAX_VIEWERS:
            raise ResourceExhausted("too many look at the page", retry_after_s=RETRY_AFTER_S)
        self._num_viewers += 1
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._run(), name="page")
        try:
            yield Viewer(self)
        finally:
            self._num_viewers -= 1
            if not self._num_viewers:
                self._ticking.cancel()
                self._ticking = None
                self._kept.clear()

    async def news(self) -> None:
        """Wait for the next tick, or the end."""
        await self._news.wait()

    def since(self, number: int) -> list[bytes]:
        """The ticks that are kept of those after the first `number`."""
        num_new = min(self.num_made - number, len(self._kept))
        return list(self._kept)[len(self._kept) - num_new :]

    async def _run(self) -> None:
        tick = self._open_feed()
        while not self._is_stopping():
            try:
                self._keep(await tick())
            except Exception:
                # The page shows nothing for a moment; the next tick may do.
                log.exception("page tick failed")
            await asyncio.sleep(self._tick_s)
        self.has_ended = True
        self._news.set()

    def _keep(self, tick: bytes) -> None:
        self._kept.append(tick)
        self.num_made += 1
        self._news.set()
        self._news = asyncio.Event()


class Viewer:
    """One that looks."""

    def __init__(self, viewers: Viewers) -> None:
        self._viewers = viewers
        self._num_read = 0

    async def next(self) -> list[bytes]:
        """The ticks since the last call, at least one; at first all that are kept. Whoever is slow
        skips what is no longer kept. Empty when the gateway is stopping."""
        viewers = self._viewers
        while not (ticks := viewers.since(self._num_read)):
            if viewers.has_ended:
                return []
            await viewers.news()
        self._num_read = viewers.num_made
        return ticks
