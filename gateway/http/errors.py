"""Errors as OpenAI's JSON: the one table, and the handlers that use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from tandem.core.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tandem.wire.status import INTERNAL_MESSAGE

log = structlog.get_logger(__name__)

INVALID_REQUEST_TYPE = "invalid_request_error"
UNAUTHORIZED = 401
CLIENT_CLOSED_REQUEST = 499
TOO_LATE = 504
DEFAULT_RETRY_AFTER_S = 1.0

# Status and type of each kind of error. What is not here is the server's own fault: 500.
KINDS: Mapping[type[TandemError], tuple[int, str]] = {
    InvalidRequest: (400, INVALID_REQUEST_TYPE),
    Unauthenticated: (UNAUTHORIZED, INVALID_REQUEST_TYPE),
    PermissionDenied: (403, INVALID_REQUEST_TYPE),
    NotFound: (404, INVALID_REQUEST_TYPE),
    ResourceExhausted: (429, "rate_limit_error"),
    Cancelled: (CLIENT_CLOSED_REQUEST, "request_cancelled"),
    Unavailable: (503, "service_unavailable"),
    DeadlineExceeded: (TOO_LATE, "timeout_error"),
}
INTERNAL = (500, "server_error")
RETRIABLE = (429, 503)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as a client of OpenAI's API knows it."""

    status: int
    type: str
    message: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None

    def json(self) -> bytes:
        """The response's body, or the data of a server-sent event."""
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": self.type,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )

    def response(self) -> Response:
        """As a whole response."""
        headers = {}
        if self.status in RETRIABLE:
            headers["Retry-After"] = str(math.ceil(self.retry_after_s or DEFAULT_RETRY_AFTER_S))
        elif self.status == UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        elif self.status == TOO_LATE:
            # OpenAI's clients would ask twice more by themselves.
            headers["X-Should-Retry"] = "false"
        return Response(self.json(), self.status, headers, "application/json")


def describe(error: Exception) -> ErrorAnswer:
    """What the client is told of an error. What only the operator may know goes to the log."""
    status, kind = _kind(error)
    if status == INTERNAL[0] or not isinstance(error, TandemError):
        log.error("request_failed", exc_info=error)
        return ErrorAnswer(status, kind, INTERNAL_MESSAGE, "internal_error")
    return ErrorAnswer(status, kind, error.message, _code(error), error.param, error.retry_after_s)


def add_error_handlers(app: FastAPI) -> None:
    """Let every error of the app, also those of the framework, come out in the one shape."""
    app.add_exception_handler(TandemError, _answer_error)
    app.add_exception_handler(Exception, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)


def _kind(error: Exception) -> tuple[int, str]:
    for cls in type(error).__mro__:
        if cls in KINDS:
            return KINDS[cls]
    return INTERNAL


def _code(error: TandemError) -> str:
    if isinstance(error, NotFound) and error.param == "model":
        return "model_not_found"
    if isinstance(error, Unauthenticated):
        return "invalid_api_key"
    return error.reason.lower()


async def _answer_error(request: Request, error: Exception) -> Response:
    return describe(error).response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    message = _no_route(request) if error.status_code == 404 else str(error.detail)
    answer = ErrorAnswer(error.status_code, INVALID_REQUEST_TYPE, message, code)
    response = answer.response()
    response.headers.update(error.headers or {})
    return response


def _no_route(request: Request) -> str:
    # The path is the client's; `!a` and the cut keep it harmless in a log or a terminal.
    path = request.scope["path"][:64]
    return f"there is no {path!a} here: /openapi.json lists what there is"
