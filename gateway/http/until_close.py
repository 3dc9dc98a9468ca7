"""The body of a response that ends with its connection, as HTTP/1.0 has what is written piece by
piece."""

from __future__ import annotations

from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.http.chunked_body import ChunkedBody

# The version of HTTP whose clients do not need that.
KNOWS_CHUNKS = "1.1"


class UntilCloseBody(ChunkedBody):
    """A `ResponseBody` of pieces as they are."""

    def write(self, piece: bytes) -> None:
        if not self._cycle.disconnected:
            self._transport.write(piece)


def until_close(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The app, for a client that knows no chunks: of a response that does not say how long it is
    uvicorn is to write pieces as they are, and to close behind the last."""

    async def call(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        says_length = False

        async def send_plainly(message: ASGISendEvent) -> None:
            nonlocal says_length
            if message["type"] == "http.response.start":
                says_length = b"content-length" in dict(message.get("headers", ()))
                if not says_length:
                    cycle.chunked_encoding = cycle.keep_alive = False
            elif message["type"] == "http.response.body" and not says_length:
                # uvicorn lets no more be written than was said, and no less.
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plainly)

    return call
