"""Keys for all that is asked by HTTP."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access import Access
from gateway.http.errors import describe
from gateway.http.ops import METRICS_PATH
from gateway.http.page import EVENTS_PATH
from gateway.page.assets import page_paths
from gateway.refusals import Refusals
from tandem.core.errors import TandemError

# What orchestrators ask, and no one else has use for; and the page, which shows nothing without a
# key. Exactly these: all others need one, also those that are not there.
OPEN_PATHS = frozenset({"/health", "/live", "/ready", *page_paths()})
# What shows all tenants' requests; and whatever begins like it, since a route takes its path with a
# line's end behind it, too.
WATCHERS_PATHS = (METRICS_PATH, EVENTS_PATH)
# Of a request's state: the tenant it is of, once that is known.
TENANT = "tenant"


class AccessMiddleware:
    """Answers whoever may not ask, before a route is looked for and a body read, and counts them.
    Whose a request is our server has found already (`front_door.py`), if it has a key."""

    def __init__(self, app: ASGIApp, access: Access, refusals: Refusals) -> None:
        self._app = app
        self._access = access
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            try:
                self._check(scope)
            except TandemError as error:
                self._refusals.add(error.reason, error.message)
                await describe(error).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path, state = scope["path"], scope.setdefault("state", {})
        if path.startswith(WATCHERS_PATHS):
            self._access.check_watcher(Headers(scope=scope))
        elif path not in OPEN_PATHS and TENANT not in state:
            state[TENANT] = self._access.tenant_of(Headers(scope=scope))
