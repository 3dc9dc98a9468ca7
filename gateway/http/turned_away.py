"""What whoever is turned away is told before the app is asked."""

from __future__ import annotations

from gateway.http.body import TOO_LONG
from gateway.http.errors import INVALID_REQUEST_TYPE, ErrorAnswer

MAX_URL_BYTES = 2**13
MAX_HEADERS = 128

TOO_LONG_URL = ErrorAnswer(
    414, INVALID_REQUEST_TYPE, f"the URL has more than {MAX_URL_BYTES} bytes", "uri_too_long"
)
TOO_MANY_HEADERS = ErrorAnswer(
    431,
    INVALID_REQUEST_TYPE,
    f"the request has more than {MAX_HEADERS} headers",
    "request_header_fields_too_large",
)
TOO_LONG_BODY = ErrorAnswer(413, INVALID_REQUEST_TYPE, TOO_LONG, "request_entity_too_large")
TOO_SLOW = ErrorAnswer(
    408, INVALID_REQUEST_TYPE, "the request did not come in time", "request_timeout"
)
TOO_MANY_CONNECTIONS = ErrorAnswer(
    503, "service_unavailable", "too many connections: try again later", "unavailable"
)
TOO_MANY_OF_TENANT = ErrorAnswer(
    503,
    "service_unavailable",
    "the tenant has too many connections: try again later",
    "unavailable",
)
TOO_MANY_PIPELINED = ErrorAnswer(
    400, INVALID_REQUEST_TYPE, "too many pipelined requests", "invalid_request"
)
NO_PROXY = ErrorAnswer(
    405, INVALID_REQUEST_TYPE, "CONNECT is not served: this is no proxy", "method_not_allowed"
)


def too_large_head(max_bytes: int) -> ErrorAnswer:
    """For headers of more bytes than that."""
    message = f"the headers have more than {max_bytes} bytes"
    return ErrorAnswer(431, INVALID_REQUEST_TYPE, message, "request_header_fields_too_large")


def too_busy(retry_after_s: float) -> ErrorAnswer:
    """For who had better come again."""
    return ErrorAnswer(
        503,
        "service_unavailable",
        "the gateway has too much to do: try again later",
        "unavailable",
        retry_after_s=retry_after_s,
    )
