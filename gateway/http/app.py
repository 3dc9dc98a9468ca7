"""The HTTP side of the gateway, put together."""

from __future__ import annotations

from fastapi import FastAPI

from gateway.frontend import Frontend
from gateway.http.access import AccessMiddleware
from gateway.http.errors import add_error_handlers
from gateway.http.models import models_router
from gateway.http.openapi import describe_api
from gateway.http.ops import ops_router
from gateway.http.request_id import RequestIdMiddleware
from gateway.http.routes import generation_router
from gateway.http.tokenize import tokenize_router
from gateway.refusals import Refusals
from gateway.tokens import TokenService
from tandem.process.metrics import MetricsPage


def create_app(
    frontend: Frontend,
    service: TokenService,
    metrics: MetricsPage,
    refusals: Refusals,
) -> FastAPI:
    """OpenAI's API over `frontend`; what `service` knows of models and readiness; `metrics`. Who
    has no key is one of the `refusals`."""
    # The pages that show the API would load their scripts from another's servers. Where something
    # before this speaks TLS, a redirect would send the client on without it.
    app = FastAPI(title="Tandem", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(generation_router(frontend))
    app.include_router(tokenize_router(frontend, service))
    app.include_router(models_router(service))
    app.include_router(ops_router(service, metrics))
    app.add_middleware(AccessMiddleware, access=frontend.access, refusals=refusals)
    # The outermost: what is refused has a name, too.
    app.add_middleware(RequestIdMiddleware)
    add_error_handlers(app)
    describe_api(app)
    return app
