"""GET /health, /live, /ready, /version and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from gateway.http.documented_errors import ASKED_ERRORS, documented, documented_errors
from gateway.http.schemas.answers import Health, Status
from gateway.tokens import TokenService
from tandem.core.errors import Unavailable
from tandem.core.installation import own_version
from tandem.process.metrics import CONTENT_TYPE, MetricsPage

METRICS_PATH = "/metrics"


def ops_router(service: TokenService, metrics: MetricsPage) -> APIRouter:
    """What operators and orchestrators ask. None of it takes part in serving."""
    router = APIRouter()

    @router.head("/live", include_in_schema=False)
    @router.get("/live", response_model=None, responses=documented(Status))
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @router.head("/health", include_in_schema=False)
    @router.get(
        "/health", response_model=None, responses=documented(Health) | documented_errors(503)
    )
    async def health() -> dict[str, object]:
        _refuse_if_draining(service)
        return {"status": "ok", "ready": service.ready}

    @router.head("/ready", include_in_schema=False)
    @router.get(
        "/ready", response_model=None, responses=documented(Status) | documented_errors(503)
    )
    async def ready() -> JSONResponse:
        _refuse_if_draining(service)
        if service.ready:
            return JSONResponse({"status": "ok"})
        raise Unavailable("not every role has a worker that serves")

    @router.head("/version", include_in_schema=False)
    @router.get("/version", responses=documented_errors(*ASKED_ERRORS))
    async def read_version() -> dict[str, str]:
        return {"version": own_version()}

    @router.head(METRICS_PATH, include_in_schema=False)
    @router.get(
        METRICS_PATH,
        response_class=PlainTextResponse,
        responses=documented_errors(*ASKED_ERRORS),
    )
    async def read_metrics() -> Response:
        return Response(await metrics.text(), media_type=CONTENT_TYPE)

    return router


def _refuse_if_draining(service: TokenService) -> None:
    if service.draining:
        raise Unavailable("the gateway is stopping", retry_after_s=1.0)
