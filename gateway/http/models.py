"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

import time

from fastapi import APIRouter

from gateway.http.documented_errors import ASKED_ERRORS, documented, documented_errors
from gateway.http.schemas.answers import Model, ModelList
from gateway.limits import DEFAULT_MODEL, max_total_tokens, not_served
from gateway.tokens import ServedModel, TokenService

Json = dict[str, object]

LISTED = documented(ModelList) | documented_errors(*ASKED_ERRORS)
READ = documented(Model) | documented_errors(*ASKED_ERRORS, 404)


def models_router(service: TokenService) -> APIRouter:
    """The list of what is served: the model under its own name and as `default`."""
    router = APIRouter()
    created = int(time.time())

    @router.head("/v1/models", include_in_schema=False)
    @router.get("/v1/models", response_model=None, responses=LISTED)
    async def list_models() -> Json:
        model = service.model
        return {"object": "list", "data": [] if model is None else _entries(model, created)}

    # With slashes, as in the names of a hub.
    @router.head("/v1/models/{model_id:path}", include_in_schema=False)
    @router.get("/v1/models/{model_id:path}", response_model=None, responses=READ)
    async def read_model(model_id: str) -> Json:
        model = service.model
        if model is None or model_id not in (model.name, DEFAULT_MODEL):
            raise not_served(model_id, model)
        return _entry(model_id, model, created)

    return router


def _entries(model: ServedModel, created: int) -> list[Json]:
    return [_entry(name, model, created) for name in dict.fromkeys((model.name, DEFAULT_MODEL))]


def _entry(name: str, model: ServedModel, created: int) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "tandem",
        "max_model_len": max_total_tokens(model),
    }
