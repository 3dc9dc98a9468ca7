"""Who comes in by HTTP: keys at the head of a request, turns and places by tenants."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count

import pytest
from http_client import POST, Connection, connected, post, serving, serving_one
from scripted_service import Pause
from starlette.types import Receive, Scope, Send

from gateway.access import Access
from gateway.http.app import create_app
from gateway.http.front_door import FrontDoor
from gateway.http.turnstile import MAX_WAIT_S, PER_TURN, Turnstile
from gateway.lag import Lag
from gateway.outcomes import Outcomes
from gateway.refusals import Refusals
from gateway.tenants import ONE_TENANT, Tenant, Tenants
from tandem.process.api_keys import ApiKeys, digest_of
from tandem.process.metrics import MetricsPage

TENANTS: Tenants = {**ONE_TENANT, "one": Tenant(), "other": Tenant(), "heavy": Tenant(weight=3.0)}
ACCESS = Access(TENANTS, ApiKeys({digest_of(f"key-of-{name}"): name for name in TENANTS}))
LONG = POST + b"Content-Length: 1000000\r\n"


@pytest.fixture
def access() -> Access:
    return ACCESS


def bearer(tenant: str) -> bytes:
    return f"Authorization: Bearer key-of-{tenant}\r\n".encode()


# Turns


async def test_who_comes_behind_a_flood_is_let_in_next() -> None:
    turnstile, started = Turnstile(TENANTS), list[str]()
    for _ in range(1000):
        turnstile.enter(lambda: started.append("one"), "one")
    turnstile.enter(lambda: started.append("other"), "other")
    while "other" not in started:
        await asyncio.sleep(0)
    assert len(started) <= PER_TURN
    while len(started) < 1001:
        await asyncio.sleep(0)
    assert turnstile.wait_s("one") == 0


async def test_turns_are_by_weight_and_ones_own_in_order() -> None:
    turnstile, started = Turnstile(TENANTS), list[tuple[str, int]]()
    for number in range(400):
        for tenant in ("one", "heavy"):
            turnstile.enter(lambda each=(tenant, number): started.append(each), tenant)  # type: ignore[misc]
    while len(started) < 400:
        await asyncio.sleep(0)
    share = Counter(tenant for tenant, _ in started[:400])
    assert share["heavy"] == pytest.approx(300, abs=PER_TURN)
    for tenant in ("one", "heavy"):
        numbers = [number for each, number in started if each == tenant]
        assert numbers == [*range(len(numbers))]


async def test_a_flood_is_turned_away_and_no_other() -> None:
    turnstile = Turnstile(TENANTS)
    while turnstile.wait_s("one") <= MAX_WAIT_S:
        turnstile.enter(lambda: None, "one")
    assert turnstile.wait_s("other") < MAX_WAIT_S / 100
    # Whose turns come three times as often waits for a third of it.
    for _ in range(PER_TURN):
        turnstile.enter(lambda: None, "heavy")
    assert turnstile.wait_s("heavy") < 2 * turnstile.wait_s("other") + 1


# Keys


async def unasked(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "lifespan", "the app was asked"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (b"", 401),
        (b"Authorization: Bearer nonesuch\r\n", 401),
        (bearer("one") + b"X-Tandem-Tenant: other\r\n", 403),
    ],
)
async def test_a_wrong_key_is_refused_at_the_head(authorization: bytes, status: int) -> None:
    counts = Counter[str]()
    refusals = Refusals(counts)
    async with serving_one(unasked, access=ACCESS, refusals=refusals) as connection:
        await connection.send(LONG + authorization + b"X-Request-Id: mine\r\n\r\n")
        told = await connection.reader.read()
    assert told.startswith(b"HTTP/1.1 %d " % status)
    assert (b"www-authenticate: bearer" in told.lower()) is (status == 401)
    assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert b"x-request-id: mine\r\n" in told.lower()
    assert counts.total() == 1


async def test_what_is_open_needs_no_key_at_the_head_either(app):
    async with serving(app, access=ACCESS) as port:
        for target in (b"/live", b"/live?x=1", b"http://x/live"):
            async with connected(port) as connection:
                await connection.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
                assert await connection.status() == 200


async def test_a_wrong_key_behind_an_answer_does_not_cut_it(frontend, service, say):
    service.script = lambda request: [72, *[Pause.A_MOMENT] * 5, *say("ello")]
    body = b'{"prompt": "Hi", "stream": true}'
    counts = Counter[str]()
    refusals = Refusals(counts)
    app = create_app(frontend, service, MetricsPage(), refusals)
    async with serving_one(app, access=ACCESS, refusals=refusals) as connection:
        await connection.send(post(body, bearer("one")))
        await connection.reader.readuntil(b'"text":"H"')
        await connection.send(post(body, bearer("nobody")))
        await connection.reader.readuntil(b"data: [DONE]\n\n")
        await connection.reader.readuntil(b"0\r\n\r\n")
        assert await connection.status() == 401
    assert [request.tenant for request in service.requests] == ["one"]
    assert counts == {"UNAUTHENTICATED": 1}


async def test_a_request_takes_its_tenants_turn(app, service, monkeypatch):
    entered: list[str] = []
    enter = Turnstile.enter
    monkeypatch.setattr(
        Turnstile,
        "enter",
        lambda self, start, tenant: (entered.append(tenant), enter(self, start, tenant)),
    )
    async with serving(app, access=ACCESS) as port:
        for tenant in ("one", "other"):
            async with connected(port) as connection:
                await connection.send(post(b'{"prompt": "Hi"}', bearer(tenant)))
                assert await connection.status() == 200
    assert entered == ["one", "other"]
    assert [request.tenant for request in service.requests] == ["one", "other"]


# Places


async def test_one_tenants_connections_leave_places_to_others(app, service):
    service.script = lambda request: [Pause.FOREVER]
    counts = Counter[str]()
    refusals = Refusals(counts)
    async with (
        serving(app, access=ACCESS, refusals=refusals, max_connections=8) as port,
        AsyncExitStack() as connections,
    ):

        async def is_served(tenant: str) -> bool:
            """On a connection that stays, and has no answer if it is."""
            connection = await connections.enter_async_context(connected(port))
            await connection.send(post(b'{"prompt": "Hi"}', bearer(tenant)))
            answer = asyncio.create_task(connection.status())
            num_requests = len(service.requests)
            while len(service.requests) == num_requests and not answer.done():
                await asyncio.sleep(0)
            if answer.done():
                assert answer.result() == 503
            return not answer.done()

        assert [await is_served("one") for _ in range(8)] == [True] * 6 + [False] * 2
        assert await is_served("other")
        assert not await is_served("one")
    assert counts == {"UNAVAILABLE": 3}


async def test_a_tenants_own_idle_connections_give_way_to_its_new_ones(app):
    """And no other's, however long these are idle."""
    async with (
        serving(app, access=ACCESS, max_connections=8) as port,
        AsyncExitStack() as connections,
    ):

        async def asked(tenant: str) -> Connection:
            """A connection that stays."""
            connection = await connections.enter_async_context(connected(port))
            models = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + bearer(tenant) + b"\r\n"
            await connection.send(models)
            assert (await connection.answer())[0] == 200
            return connection

        others = await asked("other")
        own = [await asked("one") for _ in range(8)]
        assert await own[0].reader.read() == b""
        assert not others.reader.at_eof()


async def test_so_they_do_of_a_tenant_that_has_more_than_it_would_get_by_now(
    access: Access,
) -> None:
    """Since others have come."""
    front = FrontDoor(access, 100, Lag(), Refusals(), Outcomes(()))
    places = count()

    def comes(tenant: str) -> bool:
        connection = next(places)
        came = front.connect(connection) and not front.refusal(connection, tenant, b"GET", b"/x")
        front.rest(connection, lambda: None) if came else front.leave(connection)
        return came

    assert all(comes("one") for _ in range(75))
    assert all(comes("other") for _ in range(18))
    assert all(comes("one") for _ in range(75))
    assert front.num_places_held == 93
