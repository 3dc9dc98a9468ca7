"""X-Request-Id, in and out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.limits import is_request_id

HEADER = "x-request-id"

log = structlog.get_logger(__name__)


class RequestIdMiddleware:
    """Names each exchange: in `request.state.request_id`, after which a generation and its answer
    are named, in the response's header and in the log. The name is the client's for it, or a new
    one if it has none or one that could forge a log line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_named)


def request_id_of(headers: Mapping[str, str]) -> str:
    """The name of the exchange that came with these headers, in lower case."""
    sent = headers.get(HEADER, "")
    if sent and is_request_id(sent):
        return sent
    request_id = secrets.token_hex(16)
    if sent:
        log.warning("request_id_replaced", num_chars=len(sent), request_id=request_id)
    return request_id
