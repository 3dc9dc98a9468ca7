"""What is written to a client, and whether it reads that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A client that takes less of what waits for it, within the time that it has, does not read; unless
# no more was waiting.
MIN_READ_BYTES = 2**14


class CountingTransport:
    """A transport that knows how much was written to it. All else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.num_written_bytes = 0
        self._held: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport`."""
        self.num_written_bytes += len(data)
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one write of those in the block: each is a call of the system, and a packet."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held:
                self._transport.write(b"".join(held))

    @property
    def num_unread_bytes(self) -> int:
        """Of those written, as far as the system has no room for them."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._held or ()))


class ReadWatch:
    """While it watches, the client has to read on in time, or its connection is ended."""

    def __init__(
        self, transport: CountingTransport, timeout_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = loop
        self._deadline: asyncio.TimerHandle | None = None
        # When the time began.
        self._num_unread_bytes = 0
        self._num_written_bytes = 0

    def begin(self) -> None:
        """Watch, from now on."""
        self.end()
        self._num_unread_bytes = self._transport.num_unread_bytes
        self._num_written_bytes = self._transport.num_written_bytes
        self._deadline = self._loop.call_later(self._timeout_s, self._on_deadline)

    def begin_if_unread(self) -> None:
        """Of what is written some may wait for the client, too little to stop writing for: it has
        to read that on in time as well, or its connection would never be closed."""
        if self._deadline is None and self._transport.num_unread_bytes:
            self.begin()

    def end(self) -> None:
        """Watch no more; idempotent."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        num_unread_bytes = self._transport.num_unread_bytes
        num_written_bytes = self._transport.num_written_bytes - self._num_written_bytes
        num_read_bytes = self._num_unread_bytes + num_written_bytes - num_unread_bytes
        if not num_unread_bytes:
            return
        if num_read_bytes >= min(MIN_READ_BYTES, self._num_unread_bytes):
            self.begin()
        else:
            # Not closed: that would wait for the client to read the rest.
            self._transport.abort()
