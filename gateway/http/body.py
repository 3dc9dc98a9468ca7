"""Request bodies: bounded, and strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

# Room for a prompt of a million characters.
MAX_BODY_BYTES = 2 * 2**20
# What is read of a longer one, only to be dropped.
MAX_LINGER_BYTES = 128 * 2**20
MAX_LINGER_S = 0.5
# Lists, objects and keys, which are counted by their colons; also those within strings, which are
# not told apart. A million of them would hold the event loop up for half a second. A prompt has
# about one token for each at least, so that no real one comes near.
MAX_BODY_NODES = 2**16


class JsonRequest(Request):
    """A request whose body is refused before it is held, and parsed by orjson, which takes neither
    NaN nor lone surrogates nor deep nesting."""

    async def body(self) -> bytes:
        """Raises 415 for what does not call itself JSON, 413 for what is too long."""
        if not hasattr(self, "_body"):
            self._require_json()
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """Raises `json.JSONDecodeError`."""
        return _parse(await self.body())

    async def _read(self) -> bytes:
        chunks = self.stream()
        if _content_length(self) > MAX_BODY_BYTES:
            await _refuse(chunks)
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            # A chunked body does not say how long it is, and one that does may lie.
            if len(body) > MAX_BODY_BYTES:
                await _refuse(chunks)
        return bytes(body)

    def _require_json(self) -> None:
        content_type = self.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the content type must be application/json")


class JsonRoute(APIRoute):
    """A route whose handler gets a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


async def _refuse(chunks: AsyncIterator[bytes]) -> NoReturn:
    # A connection that is closed while bytes are coming in is reset, and the client may never read
    # why: so they are let come for a while, and dropped.
    num_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_LINGER_S):
            async for chunk in chunks:
                num_bytes += len(chunk)
                if num_bytes > MAX_LINGER_BYTES:
                    break
    raise HTTPException(
        413, f"the body must have at most {MAX_BODY_BYTES} bytes", {"Connection": "close"}
    )


def _content_length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0


def _parse(body: bytes) -> Any:
    if sum(body.count(mark) for mark in (b"[", b"{", b":")) > MAX_BODY_NODES:
        raise HTTPException(400, f"the body has more than {MAX_BODY_NODES} lists, objects and keys")
    return orjson.loads(body)
