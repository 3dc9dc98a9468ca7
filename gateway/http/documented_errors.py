"""What `/openapi.json` says of errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from gateway.http.errors import RETRIABLE

# Of whatever needs a key, for which connections are counted as well.
ASKED_ERRORS = (401, 403, 503)
# Of whatever takes a body.
BODY_ERRORS = (400, 401, 403, 404, 408, 413, 415, 429, 503)

# By name: of a model FastAPI would make a field for each status of each route.
ERROR_BODY = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
RETRY_AFTER = {
    "Retry-After": {
        "description": "In how many seconds there will be room, by the measured pace.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


class ErrorDetail(BaseModel):
    """What is wrong. `param` is the field that is, if it is one."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every response that is an error."""

    error: ErrorDetail


def documented(answer: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that writes its answer itself."""
    return {200: {"model": answer, "description": HTTPStatus.OK.phrase}}


def documented_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with these, and seldom with others of the same form:
    FastAPI's own 422 is none of them."""
    return {
        **{status: _documented(status) for status in sorted(statuses)},
        "default": {"content": ERROR_BODY, "description": "Any other error"},
    }


def _documented(status: int) -> dict[str, Any]:
    described = {"content": ERROR_BODY, "description": HTTPStatus(status).phrase}
    return described | {"headers": RETRY_AFTER} if status in RETRIABLE else described
