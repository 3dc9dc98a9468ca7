"""The HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.access import Access
from gateway.http.counted import CountedApp
from gateway.http.front_door import FrontDoor
from gateway.http.limits import HttpLimits
from gateway.http.protocol import BoundedProtocol
from gateway.lag import Lag
from gateway.outcomes import Outcomes
from gateway.refusals import Refusals

BACKLOG = 2048
STOP_S = 1


class HttpServer(uvicorn.Server):
    """uvicorn within limits, and without its signal handlers: the process has its own."""

    def __init__(
        self,
        app: ASGIApp,
        limits: HttpLimits,
        lag: Lag,
        access: Access,
        refusals: Refusals,
        outcomes: Outcomes,
    ) -> None:
        """`access` is the app's: who has a key is not asked for it there again. While the gateway's
        `lag` is too long, no request is taken. Whoever is turned away before the app is asked is
        one of the `refusals`, and whatever is answered one of the `outcomes`."""
        door = FrontDoor(access, limits.max_connections, lag, refusals, outcomes)
        # A class or what makes its instances: uvicorn only calls it.
        protocol: Any = partial(BoundedProtocol, limits=limits, door=door)
        super().__init__(
            uvicorn.Config(
                CountedApp(app, outcomes),
                log_config=None,
                # Not a line a request, nor for each that is no HTTP: the outcomes tell of them.
                access_log=False,
                log_level="error",
                http=protocol,
                ws="none",
                backlog=BACKLOG,
                timeout_keep_alive=limits.keep_alive_s,
                timeout_graceful_shutdown=STOP_S,
            )
        )

    def drain(self) -> None:
        """From now on each answer is the last on its connection, whose client then opens another,
        elsewhere if a load balancer sees to it."""
        # The first is what uvicorn makes the second of, once a second.
        for headers in (self.config.encoded_headers, self.server_state.default_headers):
            headers.append((b"connection", b"close"))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
