"""What was let in and is not over, for whoever waits until nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class UnderWay:
    """How many requests are being read, and which answers are open, by tenant and name."""

    def __init__(self) -> None:
        self._num_being_read = 0
        self._open: set[tuple[str, str]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A request is read in the block, until it has an answer if it gets one."""
        self._num_being_read += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._num_being_read -= 1
            self._look()

    def opened(self, tenant: str, name: str) -> None:
        """A request that is being read has an answer."""
        self._open.add((tenant, name))

    def closed(self, tenant: str, name: str) -> None:
        """The answer is over."""
        self._open.discard((tenant, name))
        self._look()

    def is_open(self, tenant: str, name: str) -> bool:
        return (tenant, name) in self._open

    async def idle(self) -> None:
        """Wait until there is nothing."""
        await self._is_idle.wait()

    def _look(self) -> None:
        if not (self._open or self._num_being_read):
            self._is_idle.set()
