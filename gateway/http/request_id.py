"""X-Request-Id, in and out."""

from __future__ import annotations

import secrets

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.limits import MAX_REQUEST_ID_CHARS, REQUEST_ID_CHARS

HEADER = "x-request-id"


class RequestIdMiddleware:
    """Names each exchange in the response and in the log, by the client's name for it if it has
    one. It does not name the generation: two exchanges may share it, after a retry for one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _sanitise(Headers(scope=scope).get(HEADER, "")) or secrets.token_hex(16)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(http_request_id=request_id):
            await self._app(scope, receive, send_named)


def _sanitise(value: str) -> str:
    """What is left of a header once nothing in it can forge a log line or another header."""
    return "".join(c for c in value[:MAX_REQUEST_ID_CHARS] if c in REQUEST_ID_CHARS)
