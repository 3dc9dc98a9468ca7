"""What a connection may ask of the server, whatever its requests are."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CONNECTIONS = 4096
MAX_HEADER_BYTES = 2**16
HEADER_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 60.0
# Longer than clients' pools keep connections, and load balancers (60 s): who closes first is never
# asked on what the other has just closed.
KEEP_ALIVE_S = 75
READ_TIMEOUT_S = 60.0
# Room for a prompt of a million characters.
MAX_BODY_BYTES = 2 * 2**20


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """`max_header_bytes` are those of a request line and all headers, trailers among them. A
    request's head has to be there within `header_timeout_s` after the connection or the request
    began, its body within `body_timeout_s` after that. Between an answer and the next request a
    connection is idle for `keep_alive_s` at the most. A client that is waited for has to read on
    within `read_timeout_s`."""

    max_connections: int = MAX_CONNECTIONS
    max_header_bytes: int = MAX_HEADER_BYTES
    header_timeout_s: float = HEADER_TIMEOUT_S
    body_timeout_s: float = BODY_TIMEOUT_S
    keep_alive_s: int = KEEP_ALIVE_S
    read_timeout_s: float = READ_TIMEOUT_S
