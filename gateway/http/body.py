"""Request bodies: bounded, and strict JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

# Room for a prompt of a million characters.
MAX_BODY_BYTES = 2 * 2**20
# Lists, objects and keys, also those within strings, which are not told apart. A million of them
# would hold the event loop up for half a second. A prompt has about one token for each at least, so
# that no real one comes near.
MAX_BODY_NODES = 2**16


class JsonRequest(Request):
    """A request whose body is refused before it is held, and parsed by orjson, which takes neither
    NaN nor lone surrogates nor deep nesting."""

    async def body(self) -> bytes:
        """Raises 415 for what does not call itself JSON, 413 for what is too long."""
        if not hasattr(self, "_body"):
            self._require_json()
            self._require_short(_content_length(self))
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """Raises `json.JSONDecodeError`."""
        return _parse(await self.body())

    async def _read(self) -> bytes:
        body = bytearray()
        async for chunk in self.stream():
            body += chunk
            # A chunked body does not say how long it is, and one that does may lie.
            self._require_short(len(body))
        return bytes(body)

    def _require_json(self) -> None:
        content_type = self.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the content type must be application/json")

    def _require_short(self, num_bytes: int) -> None:
        if num_bytes > MAX_BODY_BYTES:
            # What is left of the body is not read, so the connection cannot be used again.
            raise HTTPException(
                413, f"the body must have at most {MAX_BODY_BYTES} bytes", {"Connection": "close"}
            )


class JsonRoute(APIRoute):
    """A route whose handler gets a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


def _content_length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0


def _parse(body: bytes) -> Any:
    if sum(body.count(mark) for mark in (b"[", b"{", b'":')) > MAX_BODY_NODES:
        raise HTTPException(400, f"the body has more than {MAX_BODY_NODES} lists, objects and keys")
    return orjson.loads(body)
