"""Which answers HTTP's clients get, counted by path and status."""

from __future__ import annotations

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.outcomes import OTHER, Outcomes

# Those of the routes (`app.py`); of routes with names in them, how they begin.
PATHS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize"),
        *("/live", "/health", "/ready", "/version", "/metrics", "/openapi.json"),
        *("/", "/page/events"),
    }
)
NAMED = {
    "/v1/models/": "/v1/models/{model_id}",
    "/admin/workers/": "/admin/workers/{worker_id}",
    "/page/": "/page/{name}",
}
# What is wrong with a request itself. Keys, quotas and room are told of as refusals.
AT_FAULT = frozenset({"400", "404", "405", "408", "413", "414", "415", "422", "431"})
# In a request's state, if its connection has answered in its app's place.
ANSWERED = "answered"


def http_outcomes() -> Outcomes:
    """None yet."""
    return Outcomes(AT_FAULT)


def route_of(path: str) -> str:
    """One of few, whatever is asked for."""
    if path in PATHS:
        return path
    return next((route for start, route in NAMED.items() if path.startswith(start)), OTHER)


def route_of_url(url: bytes) -> str:
    """Likewise, as far as a request's URL has come."""
    try:
        path = httptools.parse_url(url).path
    except httptools.HttpParserError:
        return OTHER
    return route_of(path.decode("latin-1")) if path else OTHER


class CountedApp:
    """The same app; whatever it answers is among the `outcomes`."""

    def __init__(self, app: ASGIApp, outcomes: Outcomes) -> None:
        self._app = app
        self._outcomes = outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            is_answer = not scope.get("state", {}).get(ANSWERED, False)
            if message["type"] == "http.response.start" and is_answer:
                host, _ = scope["client"] or ("", 0)
                self._outcomes.add(route_of(scope["path"]), str(message["status"]), host)
            await send(message)

        await self._app(scope, receive, send_counted)
