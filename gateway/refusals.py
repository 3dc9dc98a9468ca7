"""Requests that are not let in: who is turned away at the door, before more is known of a request
than that it came, and what there is no worker, place, quota or time for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from tandem.core.errors import (
    DeadlineExceeded,
    PermissionDenied,
    RateLimitExceeded,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from tandem.process.rare_lines import RareLines

log = structlog.get_logger(__name__)

# How what could be served at another time is refused. All else is wrong with a request itself.
KINDS = (DeadlineExceeded, ResourceExhausted, Unavailable)
# Those that there are, and what is said to strangers.
REASONS = tuple(
    each.reason for each in (*KINDS, RateLimitExceeded, Unauthenticated, PermissionDenied)
)


class Refusals:
    """Counts them. Of a flood there are few lines in the log, with how many each stands
    for."""

    def __init__(
        self, counts: Counter[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`counts` are those by reason to add to. `clock` tells monotonic seconds."""
        self._counts = Counter[str]() if counts is None else counts
        self._lines = RareLines(clock=clock)

    def add(self, reason: str, why: str, tenant: str = "") -> None:
        """One was refused. Of a `tenant`, those for one reason are of a kind; if it is not known,
        those with one `why` are, which is then one of few: it has nothing of the request in it."""
        self._counts[reason] += 1
        if num := self._lines.due((reason, tenant or why)):
            whose = {"tenant": tenant} if tenant else {}
            log.warning("requests refused", outcome=reason, why=why, num=num, **whose)

    @contextmanager
    def counting(self, tenant: str) -> Iterator[None]:
        """Counts who of a tenant is refused in the block, which is left by an error of `KINDS`."""
        try:
            yield
        except KINDS as error:
            self.add(error.reason, error.message, tenant)
            raise
