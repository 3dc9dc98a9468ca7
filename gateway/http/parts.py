"""A long body in parts, between which others have their turns of the event loop.

One of ten megabytes, made and written as one, would hold them up for tens of milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from fastapi import Response
from starlette.types import Receive, Scope, Send

PART_BYTES = 2**17
# Of a part: each piece takes its time as well, however short it is.
MAX_PIECES = 1024


async def in_parts(pieces: Iterable[bytes]) -> deque[bytes]:
    """The pieces, as many together as make about `PART_BYTES`."""
    parts: deque[bytes] = deque()
    part: list[bytes] = []
    num_bytes = 0
    for piece in pieces:
        part.append(piece)
        num_bytes += len(piece)
        if num_bytes >= PART_BYTES or len(part) == MAX_PIECES:
            parts.append(b"".join(part))
            part.clear()
            num_bytes = 0
            await asyncio.sleep(0)
    parts.append(b"".join(part))
    return parts


class PartedResponse(Response):
    """JSON whose parts are there. A client that reads slowly is waited for before the next."""

    media_type = "application/json"

    def __init__(self, parts: deque[bytes]) -> None:
        super().__init__(headers={"content-length": str(sum(map(len, parts)))})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        while self._parts:
            part = self._parts.popleft()
            has_more = bool(self._parts)
            await send({"type": "http.response.body", "body": part, "more_body": has_more})
            if has_more:
                await asyncio.sleep(0)
