"""Request bodies: bounded, and strict JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.http.invalid_body import invalid_body
from gateway.http.limits import MAX_BODY_BYTES
from gateway.http.long_lists import read_with_list
from tandem.core.errors import Cancelled, InvalidRequest

# Lists, objects and keys, which are counted by their colons; also those within strings, which are
# not told apart. A million of them would hold the event loop up for half a second. A prompt has
# about one token for each at least, so that no real one comes near.
MAX_BODY_NODES = 2**16
NODE_MARKS = b"[{:"
OTHER_BYTES = bytes(set(range(256)).difference(NODE_MARKS))
IDENTITY = "identity"
TOO_LONG = f"the body must have at most {MAX_BODY_BYTES} bytes"


class BodyRoute(APIRoute):
    """A route whose handler takes the request and `body`, a model, and nothing else. It is called
    with them: what FastAPI does to find a handler's arguments costs as much as reading them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = self.endpoint
        model: type[BaseModel] = get_type_hints(handle)["body"]

        async def handle_body(request: Request) -> Response:
            response: Response = await handle(request, _body_of(model, await _json_of(request)))
            return response

        return handle_body


async def _json_of(request: Request) -> Any:
    """What the body says, as orjson reads it, which takes neither NaN nor lone surrogates nor deep
    nesting. Raises 415 for what does not call itself JSON, or is compressed, 413 for what is too
    long, which is refused before it is held."""
    _require_json(request.headers)
    try:
        body = await _read(request)
        _check_nodes(body)
        value = await read_with_list(body)
        return orjson.loads(body) if value is None else value
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is not valid JSON") from None
    except ClientDisconnect:
        raise Cancelled("the client disconnected") from None


def _require_json(headers: Mapping[str, str]) -> None:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the content type must be application/json")
    encoding = headers.get("content-encoding", IDENTITY)
    if encoding.strip().lower() != IDENTITY:
        raise HTTPException(
            415, f"Content-Encoding {encoding[:64]!a} is not served: send the body as it is"
        )


async def _read(request: Request) -> bytes:
    # Our server refuses what is too long, but for what comes behind a request that is not answered
    # yet.
    _check_length(content_length(request.headers.get("content-length", "")))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        # A chunked body does not say how long it is, and one that does may lie.
        _check_length(len(body))
    return bytes(body)


def _body_of(model: type[BaseModel], value: Any) -> BaseModel:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_body(model, error) from None


def content_length(value: str) -> int:
    """What the header says, 0 for what is no number."""
    return int(value) if value.isdecimal() and len(value) < 20 else 0


def _check_length(num_bytes: int) -> None:
    if num_bytes > MAX_BODY_BYTES:
        raise HTTPException(413, TOO_LONG, {"Connection": "close"})


def _check_nodes(body: bytes) -> None:
    # A fourth of the time that counting each takes: of a megabyte of text 0.4 ms.
    if len(body.translate(None, OTHER_BYTES)) > MAX_BODY_NODES:
        raise HTTPException(400, f"the body has more than {MAX_BODY_NODES} lists, objects and keys")
