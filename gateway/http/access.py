"""Keys for all that is asked by HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.errors import describe
from gateway.page.assets import page_paths
from gateway.refusals import Refusals
from tandem.core.errors import TandemError

# What orchestrators ask, and no one else has use for; and the page, which shows nothing without a
# key. Exactly these: all others need one, also those that are not there.
OPEN_PATHS = frozenset({"/health", "/live", "/ready", *page_paths()})


class AccessMiddleware:
    """Answers whoever may not ask, before a route is looked for and a body read, and counts them.
    `tenant_of` raises for these."""

    def __init__(
        self, app: ASGIApp, tenant_of: Callable[[Mapping[str, str]], str], refusals: Refusals
    ) -> None:
        self._app = app
        self._tenant_of = tenant_of
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"] not in OPEN_PATHS:
            try:
                self._tenant_of(Headers(scope=scope))
            except TandemError as error:
                self._refusals.add(error.reason, error.message)
                await describe(error).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
