"""A gateway that has too much to do refuses what is new, early, and goes on with what it has."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import NoReturn

import httpx
import pytest
from http_client import POST, connected, post, serving, serving_one
from scripted_service import Pause

from gateway.access import Access
from gateway.http.admin import admin_router
from gateway.http.turnstile import FIRST_TURN_S, MAX_WAIT_S, PER_TURN, Turnstile
from gateway.lag import INTERVAL_S, MAX_LAG_S, STANDING_S, Lag
from gateway.refusals import Refusals
from tandem.core.errors import NotFound, Unavailable
from tandem.process.rare_lines import LOG_EVERY_S


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_the_lag_is_how_late_a_timer_fires():
    clock = Clock()
    lag = Lag(clock)
    running = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    assert lag.seconds == 0
    clock.now_s += INTERVAL_S + MAX_LAG_S + 1
    # It has not fired yet, and is late.
    assert lag.seconds == pytest.approx(MAX_LAG_S + 1)
    # Then it fires: until the next time that is what is known.
    async with asyncio.timeout(10):
        while lag.seconds:
            lag.check()
            await asyncio.sleep(INTERVAL_S / 2)
    running.cancel()


async def test_a_loop_that_is_held_up_shows():
    lag = Lag()
    running = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    time.sleep(MAX_LAG_S + 2 * INTERVAL_S)  # noqa: ASYNC251
    assert lag.seconds > MAX_LAG_S
    running.cancel()


async def test_who_is_late_again_and_again_takes_nothing_new_until_it_is_not():
    clock = Clock()
    lag = Lag(clock)
    running = asyncio.create_task(lag.run())

    async def late_by(seconds: float) -> None:
        await asyncio.sleep(0)
        clock.now_s += INTERVAL_S + seconds
        async with asyncio.timeout(10):
            while lag._due_s is None or lag._due_s <= clock.now_s:
                await asyncio.sleep(INTERVAL_S / 2)

    late_s = 0.8 * STANDING_S
    await late_by(late_s)
    lag.check()
    await late_by(late_s)
    lag.check()
    await late_by(late_s)
    with pytest.raises(Unavailable) as refusal:
        lag.check()
    assert refusal.value.retry_after_s == pytest.approx(max(1.0, 2 * late_s))
    await late_by(0.0)
    lag.check()
    running.cancel()


async def test_it_is_behind_when_most_of_what_workers_say_is_old():
    clock = Clock()
    lag = Lag(clock)
    running = asyncio.create_task(lag.run())
    for worker in "abcd":
        lag.heard(worker, 0.01)

    async def measured() -> float:
        await asyncio.sleep(2 * INTERVAL_S)
        return lag.seconds

    # One alone has a bad way here.
    lag.heard("a", 30.0)
    assert await measured() == 0.01
    lag.heard("b", MAX_LAG_S + 1)
    lag.heard("c", MAX_LAG_S + 2)
    assert await measured() == MAX_LAG_S + 1
    lag.check()
    clock.now_s += STANDING_S
    with pytest.raises(Unavailable):
        lag.check()
    lag.forget("a")
    lag.heard("b", 0.01)
    assert await measured() == 0.01
    for worker in "abcd":
        lag.forget(worker)
    assert await measured() == 0
    running.cancel()


class Held(Lag):
    """Of a loop that is far behind."""

    is_held = True

    @property
    def seconds(self) -> float:
        return 2.5 * self.is_held

    @property
    def is_too_long(self) -> bool:
        return self.is_held


async def test_a_request_is_refused_before_its_body_is_there(app, service):
    counts = Counter[str]()
    async with serving(app, lag=Held(), refusals=Refusals(counts)) as port:
        async with connected(port) as connection:
            await connection.send(POST + b"Content-Length: 1000000\r\n\r\n")
            answer = await connection.reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5\r\n" in answer.lower()
        assert b"too much to do" in answer
        # Whoever asks whether it lives is told.
        async with connected(port) as connection:
            await connection.send(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await connection.status() == 200
    assert not service.requests
    assert counts == {"UNAVAILABLE": 1}


async def test_what_is_pipelined_does_not_cut_the_answer_before_it(app, service, say):
    service.script = lambda request: [72, *[Pause.A_MOMENT] * 5, *say("ello")]
    lag = Held()
    lag.is_held = False
    request = post(b'{"prompt": "Hi", "stream": true}')
    async with serving_one(app, lag=lag) as connection:
        await connection.send(request)
        await connection.reader.readuntil(b'"text":"H"')
        lag.is_held = True
        await connection.send(request)
        await connection.reader.readuntil(b"data: [DONE]\n\n")


async def test_a_flood_of_refusals_is_counted_and_not_one_of_lines(logs):
    clock, counts = Clock(), Counter[str]()
    refusals = Refusals(counts, clock)
    for _ in range(1000):
        refusals.add("UNAVAILABLE", "too busy")
    refusals.add("UNAUTHENTICATED", "no key")
    clock.now_s += LOG_EVERY_S
    refusals.add("UNAVAILABLE", "too busy")
    assert counts == {"UNAVAILABLE": 1001, "UNAUTHENTICATED": 1}
    assert [(each["why"], each["num"]) for each in logs] == [
        ("too busy", 1),
        ("no key", 1),
        ("too busy", 1000),
    ]


async def test_a_tenants_refusals_for_one_reason_are_of_a_kind(logs):
    clock = Clock()
    refusals = Refusals(clock=clock)
    for number in range(100):
        refusals.add("UNAVAILABLE", f"it would come in {number} s", "one")
    refusals.add("UNAVAILABLE", "it would come in 5 s", "other")
    refusals.add("RESOURCE_EXHAUSTED", "the queue is full", "one")
    clock.now_s += LOG_EVERY_S
    refusals.add("UNAVAILABLE", "it would come in 100 s", "one")
    assert [(each["tenant"], each["outcome"], each["num"]) for each in logs] == [
        ("one", "UNAVAILABLE", 1),
        ("other", "UNAVAILABLE", 1),
        ("one", "RESOURCE_EXHAUSTED", 1),
        ("one", "UNAVAILABLE", 100),
    ]
    assert logs[-1]["why"] == "it would come in 100 s"


async def test_a_few_are_let_in_at_a_time_in_their_order():
    """However many come at once, the loop has its turns between them."""
    turnstile = Turnstile()
    started: list[int] = []
    assert turnstile.wait_s() == 0
    for number in range(3 * PER_TURN - 1):
        turnstile.enter(lambda number=number: started.append(number))
    seen = []
    while len(started) < 3 * PER_TURN - 1:
        await asyncio.sleep(0)
        seen.append(len(started))
    assert started == list(range(3 * PER_TURN - 1))
    assert {PER_TURN, 2 * PER_TURN} <= set(seen)
    assert turnstile.wait_s() == 0


@pytest.mark.parametrize("work_s", [0.0001, 0.01, 0.1])
async def test_who_is_let_into_the_line_gets_in_in_time(work_s):
    """However much work each is. Before any was measured a guess bounds the line."""
    clock = Clock()
    turnstile = Turnstile(clock=clock)
    waits_s: list[float] = []

    def start(came_s: float) -> None:
        waits_s.append(clock.now_s - came_s)
        clock.now_s += work_s

    async def flood() -> int:
        """How many of thousands that come at once are let into the line, and wait for all."""
        waits_s.clear()
        num_entered = 0
        while num_entered < 10_000 and turnstile.wait_s() <= MAX_WAIT_S:
            turnstile.enter(partial(start, clock.now_s))
            num_entered += 1
        while len(waits_s) < num_entered:
            await asyncio.sleep(0)
        return num_entered

    assert await flood() == pytest.approx(MAX_WAIT_S / FIRST_TURN_S * PER_TURN, abs=2)
    num_entered = await flood()
    assert max(waits_s) <= 1.01 * MAX_WAIT_S
    assert num_entered >= min(10_000, 0.9 * MAX_WAIT_S / work_s)


async def test_what_does_not_generate_passes_the_line(app, service, monkeypatch):
    """While thousands wait, whoever asks whether it lives is told."""
    entered: list[object] = []
    monkeypatch.setattr(Turnstile, "enter", lambda self, start, tenant: entered.append(start))
    async with serving(app) as port, connected(port) as generating:
        await generating.send(post(b'{"prompt": "Hi"}'))
        while not entered:
            await asyncio.sleep(0.005)
        for path in (b"/live", b"/ready", b"/health", b"/metrics"):
            async with connected(port) as connection:
                await connection.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                assert await connection.status() == 200
        generating.writer.close()
        await generating.reader.read()
    assert len(entered) == 1
    assert not service.requests


class Admin:
    """Notes what it is told, of workers that are not there."""

    def __init__(self) -> None:
        self.orders: list[str] = []

    def drain_worker(self, worker_id: str, timeout_s: float) -> NoReturn:
        self.orders.append("drain")
        raise NotFound("there is no worker")

    def undrain_worker(self, worker_id: str) -> NoReturn:
        self.orders.append("undrain")
        raise NotFound("there is no worker")


async def test_orders_to_workers_are_taken_however_much_there_is_to_do(app, monkeypatch):
    """They may be what helps. Neither the lag nor the line is in their way."""
    monkeypatch.setattr(Turnstile, "enter", lambda self, start, tenant: None)
    admin, counts = Admin(), Counter[str]()
    app.include_router(admin_router(admin, Access(), Refusals(counts)))
    headers = {"x-tandem-operator": "page"}
    async with (
        serving(app, lag=Held(), refusals=Refusals(counts)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        for order in ("drain", "undrain"):
            path = f"/admin/workers/decode-0/{order}"
            assert (await client.post(path, json={}, headers=headers)).status_code == 404
        generating = await client.post("/v1/completions", json={"prompt": "Hi"})
        assert generating.status_code == 503
    assert admin.orders == ["drain", "undrain"]
    assert counts == {"UNAVAILABLE": 1}


async def test_there_is_no_lag_once_nobody_measures() -> None:
    now = 0.0
    lag = Lag(clock=lambda: now)
    measuring = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    now = 10 * MAX_LAG_S
    assert lag.seconds > MAX_LAG_S
    measuring.cancel()
    await asyncio.wait([measuring])
    assert lag.seconds == 0
