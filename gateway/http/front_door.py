"""Who comes in, and when: all that is said of a request before its body is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import httptools

from gateway.access import Access
from gateway.http.access import OPEN_PATHS
from gateway.http.errors import ErrorAnswer, describe
from gateway.http.turned_away import TOO_MANY_CONNECTIONS, TOO_MANY_OF_TENANT, too_busy
from gateway.http.turnstile import MAX_WAIT_S, Turnstile
from gateway.lag import Lag
from gateway.outcomes import Outcomes
from gateway.places import Places
from gateway.refusals import Refusals
from tandem.core.errors import TandemError

# Orders to workers (`admin.py`).
ORDERS = b"/admin/"
OPEN_URLS = frozenset(path.encode() for path in OPEN_PATHS)


class FrontDoor:
    """What all connections of a server share: places, of which each tenant has some, and the
    turnstile. For want of room, and of keys, are the `refusals`; what else is wrong with a request
    itself is none of them. Whatever is answered is one of the `outcomes`."""

    def __init__(
        self,
        access: Access,
        max_connections: int,
        lag: Lag,
        refusals: Refusals,
        outcomes: Outcomes,
    ) -> None:
        self._access = access
        self._places = Places(max_connections, access.tenants)
        self._turnstile = Turnstile(access.tenants)
        self._lag = lag
        self._refusals = refusals
        self.outcomes = outcomes
        # How to close connections on which nothing is asked, the longest idle one first: all, and
        # each tenant's.
        self._idle: dict[object, Callable[[], None]] = {}
        self._idle_of = defaultdict[str | None, dict[object, Callable[[], None]]](dict)

    @property
    def num_places_held(self) -> int:
        """By connections that were not turned away."""
        return len(self._places)

    def connect(self, connection: object) -> bool:
        """Whether there is a place for a connection, which it then has until it has to `leave`. An
        idle one gives way to it."""
        if not self._places.has_room:
            self._close_longest(self._idle)
        if not self._places.has_room:
            self._count(TOO_MANY_CONNECTIONS)
            return False
        self._places.hold(connection)
        return True

    def leave(self, connection: object) -> None:
        """Its place is free. Idempotent."""
        self.wake(connection)
        self._places.leave(connection)

    def rest(self, connection: object, close: Callable[[], None]) -> None:
        """All that was asked on it is answered: until it has to `wake` it may be closed."""
        self._idle[connection] = close
        self._idle_of[self._places.tenant_of(connection)][connection] = close

    def wake(self, connection: object) -> None:
        """Something comes on it. Idempotent."""
        if self._idle.pop(connection, None):
            del self._idle_of[self._places.tenant_of(connection)][connection]

    def whose(self, headers: Mapping[str, str]) -> str | TandemError:
        """The tenant that a request is of, or why it is nobody's who may ask."""
        try:
            return self._access.tenant_of(headers)
        except TandemError as error:
            return error

    def refusal(
        self, connection: object, whose: str | TandemError, method: bytes, url: bytes
    ) -> ErrorAnswer | None:
        """Why a request may not come in now, if it may not: before anything is done for it."""
        if isinstance(whose, TandemError):
            return None if _is_open(url) else self._refuse_stranger(whose)
        if not self._finds_place(connection, whose):
            return self._count(TOO_MANY_OF_TENANT, whose)
        if _is_work(method, url) and self._is_overloaded(whose):
            wait_s = max(self._lag.retry_after_s, self._turnstile.wait_s(whose))
            return self._count(too_busy(wait_s), whose)
        return None

    def let_in(
        self, start: Callable[[], None], tenant: str | None, method: bytes, path: bytes
    ) -> None:
        """Call `start` when it is the request's turn. Who has no key may ask for little, and is
        told so: that is no work."""
        if tenant and _is_work(method, path):
            self._turnstile.enter(start, tenant)
        else:
            start()

    def _close_longest(self, idle: Mapping[object, Callable[[], None]]) -> bool:
        """Whether there was one that is idle."""
        for connection, close in idle.items():
            self.leave(connection)
            close()
            return True
        return False

    def _finds_place(self, connection: object, tenant: str) -> bool:
        """Whether a connection may be the tenant's: it is that of its newest request. Of a tenant
        that may not have more an idle one gives way to it."""
        if self._places.tenant_of(connection) == tenant:
            return True
        may_have = self._places.may_have_more(tenant, connection)
        if may_have or self._close_longest(self._idle_of[tenant]):
            self._places.hold(connection, tenant)
            return True
        return False

    def _is_overloaded(self, tenant: str) -> bool:
        """Whether whoever is new had better come again."""
        return self._lag.is_too_long or self._turnstile.wait_s(tenant) > MAX_WAIT_S

    def _refuse_stranger(self, error: TandemError) -> ErrorAnswer:
        self._refusals.add(error.reason, error.message)
        return describe(error)

    def _count(self, answer: ErrorAnswer, tenant: str = "") -> ErrorAnswer:
        self._refusals.add(answer.code.upper(), answer.message, tenant)
        return answer


def _is_open(url: bytes) -> bool:
    try:
        return httptools.parse_url(url).path in OPEN_URLS
    except httptools.HttpParserError:
        return False


def _is_work(method: bytes, path: bytes) -> bool:
    """Whether a request takes its turn, and only while there is not too much to do. What operators
    and orchestrators ask is little work, tells whether this one lives, and may be what helps."""
    return method == b"POST" and not path.startswith(ORDERS)
