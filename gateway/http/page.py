"""GET / and what the page there loads, and the events that keep it moving."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from gateway.http.disconnect import unless_disconnected
from gateway.http.streaming import start_of_events
from gateway.page.assets import Asset, read_assets
from gateway.page.viewers import Viewer, Viewers
from gateway.refusals import Refusals
from tandem.core.errors import Cancelled, NotFound, ResourceExhausted

# Nothing from elsewhere, nothing within the HTML, and in nobody's frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
INDEX = "index.html"
EVENTS_PATH = "/page/events"
# So that the response begins at once.
OPENING = b"retry: 1000\n\n"


def page_router(viewers: Viewers, refusals: Refusals) -> APIRouter:
    """The page. It is no part of the API that `/openapi.json` describes. Viewers too many are among
    the `refusals`."""
    router = APIRouter(include_in_schema=False)
    assets = read_assets()

    @router.head("/")
    @router.get("/")
    async def read_index(request: Request) -> Response:
        return _respond(request, assets[INDEX])

    @router.get(EVENTS_PATH)
    async def read_events() -> Response:
        return PageEvents(viewers, refusals)

    @router.head("/page/{name}")
    @router.get("/page/{name}")
    async def read_asset(request: Request, name: str) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise NotFound("the page has no such file")
        return _respond(request, asset)

    return router


def _respond(request: Request, asset: Asset) -> Response:
    """The file, or that it is the one the browser has: it asks each time, so that it never shows
    half of an old page."""
    headers = {**SECURITY_HEADERS, "ETag": asset.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)


class PageEvents(Response):
    """Streams the ticks until the viewer leaves or the gateway stops."""

    def __init__(self, viewers: Viewers, refusals: Refusals) -> None:
        super().__init__()
        self._viewers = viewers
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._viewers.join() as viewer:
                await unless_disconnected(receive, _tell(viewer, send))
        except Cancelled:
            # It has left.
            return
        except ResourceExhausted as error:
            self._refusals.add(error.reason, error.message)
            raise


async def _tell(viewer: Viewer, send: Send) -> None:
    await send(start_of_events())
    events = OPENING
    while events:
        await send({"type": "http.response.body", "body": events, "more_body": True})
        events = b"".join(b"data: %s\n\n" % tick for tick in await viewer.next())
    await send({"type": "http.response.body", "body": b""})
