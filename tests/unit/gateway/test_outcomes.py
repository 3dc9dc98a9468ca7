"""What clients do wrong is counted, and the log tells of it once in a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc_client
import httpx
import pytest
from grpc_client import GENERATE, code_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from http_client import CHAT, CHAT_PATH, POST, TEXT, TEXT_PATH, connected, serving
from scripted_service import Pause

from gateway.grpc_access import AccessInterceptor
from gateway.grpc_outcomes import CountedCalls, grpc_outcomes
from gateway.http.counted import http_outcomes, route_of, route_of_url
from gateway.http.limits import MAX_BODY_BYTES
from gateway.outcomes import OTHER, Outcomes
from gateway.refusals import Refusals
from tandem.core.errors import ResourceExhausted
from tandem.process.rare_lines import LOG_EVERY_S
from tandem.v1 import inference_pb2

SECRET = "a-prompt-of-somebody"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def told(logs: list[Any]) -> list[tuple[str, str, int]]:
    """Of the lines about clients: route, code, and how many they stand for."""
    lines = [each for each in logs if each["event"] == "client errors"]
    fields = {"event", "log_level", "route", "code", "client", "num"}
    assert all(line.keys() == fields for line in lines)
    return [(line["route"], line["code"], line["num"]) for line in lines]


@pytest.fixture
def by_http() -> Outcomes:
    return http_outcomes()


@pytest.fixture
async def asking(app, by_http) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(app, outcomes=by_http) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def test_each_answer_is_counted_by_route_and_status(asking, by_http, logs) -> None:
    assert (await asking.post(CHAT_PATH, json=CHAT)).status_code == 200
    streamed = await asking.post(TEXT_PATH, json=TEXT | {"stream": True})
    assert streamed.status_code == 200
    for _ in range(3):
        body = {"prompt": SECRET, "temperature": -1}
        assert (await asking.post(TEXT_PATH, json=body)).status_code == 400
    long = b" " * (MAX_BODY_BYTES + 1)
    assert (await asking.post(TEXT_PATH, content=long)).status_code == 413
    assert (await asking.post(TEXT_PATH, content=SECRET)).status_code == 415
    assert (await asking.get(TEXT_PATH)).status_code == 405
    for name in range(5):
        assert (await asking.get(f"/{SECRET}-{name}")).status_code == 404
        assert (await asking.get(f"/v1/models/{SECRET}-{name}")).status_code == 404
    assert by_http.counts == {
        (CHAT_PATH, "200"): 1,
        (TEXT_PATH, "200"): 1,
        (TEXT_PATH, "400"): 3,
        (TEXT_PATH, "413"): 1,
        (TEXT_PATH, "415"): 1,
        (TEXT_PATH, "405"): 1,
        (OTHER, "404"): 5,
        ("/v1/models/{model_id}", "404"): 5,
    }
    # Of each kind one line.
    assert set(told(logs)) == {(*each, 1) for each in by_http.counts if each[1] != "200"}
    assert {each["client"] for each in logs if each["event"] == "client errors"} == {"127.0.0.1"}
    assert SECRET not in repr([each for each in logs if each["event"] == "client errors"])


async def test_what_no_app_hears_of_is_counted_too(asking, by_http, logs) -> None:
    """Its path may not have come, or be none."""
    assert (await asking.get("/live?" + "x" * 9000)).status_code == 414
    assert (await asking.get("/live", headers={"X": "x" * 100_000})).status_code == 431
    assert by_http.counts.keys() == {("/live", "414"), ("/live", "431")}
    assert len(told(logs)) == 2


@pytest.mark.parametrize("body", [b"zz\r\n", b"%x\r\n" % (MAX_BODY_BYTES + 1)])
async def test_what_is_refused_within_its_body_is_counted_once(asking, by_http, body) -> None:
    """Its app, which is told that nobody waits for it, says something as well."""
    request = POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"x" * (MAX_BODY_BYTES + 1)
    async with connected(asking.base_url.port) as connection:
        await connection.send(request)
        status, _ = await connection.answer()
    assert by_http.counts == {(TEXT_PATH, str(status)): 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_its_answer_has_begun_is_counted(
    asking, service, by_http, stream
) -> None:
    service.script = lambda request: [Pause.FOREVER]
    asked = asyncio.create_task(asking.post(TEXT_PATH, json=TEXT | {"stream": stream}))
    async with asyncio.timeout(10):
        while not service.streams:
            await asyncio.sleep(0)
        asked.cancel()
        while not by_http.counts:
            await asyncio.sleep(0)
    assert by_http.counts == {(TEXT_PATH, "499"): 1}
    assert service.streams[0].cancelled.is_set()


async def test_refusals_have_a_line_of_their_own(asking, service, by_http, logs) -> None:
    service.refusal = ResourceExhausted("the queue is full")
    assert (await asking.post(TEXT_PATH, json=TEXT)).status_code == 429
    assert by_http.counts == {(TEXT_PATH, "429"): 1}
    assert not told(logs)


def test_a_line_stands_for_those_since_the_last(logs) -> None:
    now_s = 0.0
    outcomes = Outcomes({"400"}, lambda: now_s)
    for _ in range(3):
        outcomes.add("/", "400", "host")
    now_s += LOG_EVERY_S
    outcomes.add("/", "400", "host")
    assert told(logs) == [("/", "400", 1), ("/", "400", 3)]


@pytest.mark.parametrize("url", [b"", b"*", b"host:443", b"http://host", b"?a", b"/\xff"])
def test_what_names_no_path_is_another(url: bytes) -> None:
    assert route_of_url(url) == OTHER


async def test_every_route_has_a_name(app) -> None:
    paths = app.openapi()["paths"]
    assert {path: route_of(path) for path in paths} == {path: path for path in paths}


@pytest.fixture
def by_grpc() -> Outcomes:
    return grpc_outcomes()


@pytest.fixture
async def address(frontend, service, by_grpc) -> AsyncIterator[str]:
    interceptors = [CountedCalls(by_grpc), AccessInterceptor(frontend.access, Refusals())]
    async with grpc_client.serving(frontend, service, interceptors) as address:
        yield address


@pytest.fixture
async def channel(address) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def test_calls_are_counted_by_method_and_status(channel, service, by_grpc, logs) -> None:
    asked = inference_pb2.GenerateRequest(text="Hi", max_tokens=4).SerializeToString()
    wrong = inference_pb2.GenerateRequest(text=SECRET, temperature=-1).SerializeToString()
    assert await code_of(channel, asked) is grpc.StatusCode.OK
    for _ in range(2):
        assert await code_of(channel, wrong) is grpc.StatusCode.INVALID_ARGUMENT
    for number in range(3):
        code = await code_of(channel, b"", f"/{SECRET}/Method{number}")
        assert code is grpc.StatusCode.UNIMPLEMENTED
    health = health_pb2_grpc.HealthStub(channel)
    await health.Check(health_pb2.HealthCheckRequest())
    service.refusal = KeyError("a bug")
    assert await code_of(channel, asked) is grpc.StatusCode.INTERNAL
    assert by_grpc.counts == {
        (GENERATE, "OK"): 1,
        (GENERATE, "INVALID_ARGUMENT"): 2,
        (GENERATE, "INTERNAL"): 1,
        (OTHER, "UNIMPLEMENTED"): 3,
        ("/grpc.health.v1.Health/Check", "OK"): 1,
    }
    assert set(told(logs)) == {(GENERATE, "INVALID_ARGUMENT", 1), (OTHER, "UNIMPLEMENTED", 1)}


async def test_a_client_that_leaves_has_cancelled(channel, service, by_grpc, tokenizer) -> None:
    service.script = lambda request: [*tokenizer.encode("Hello"), Pause.FOREVER]
    asked = inference_pb2.GenerateRequest(text="Hi", max_tokens=400).SerializeToString()
    call = channel.unary_stream(GENERATE)(asked)
    await call.read()
    call.cancel()
    await service.streams[0].cancelled.wait()
    async with asyncio.timeout(10):
        while not by_grpc.counts:
            await asyncio.sleep(0.005)
    assert by_grpc.counts == {(GENERATE, "CANCELLED"): 1}


async def test_a_client_that_leaves_before_it_has_asked_has_cancelled(channel, by_grpc) -> None:
    num_calls = 20
    for _ in range(num_calls):
        call = channel.stream_stream(GENERATE)()
        # The server has its head by then: these come in order.
        await code_of(channel, b"", "/no/Method")
        call.cancel()
    async with asyncio.timeout(10):
        while by_grpc.counts[GENERATE, "CANCELLED"] < num_calls:
            await asyncio.sleep(0.005)
    assert by_grpc.counts.keys() == {(GENERATE, "CANCELLED"), (OTHER, "UNIMPLEMENTED")}


async def test_a_client_that_asks_nothing_is_told_so(channel) -> None:
    call = channel.stream_stream(GENERATE)()
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (GENERATE, inference_pb2.GenerateRequest(text="Hi", max_tokens=4)),
        # By a generator of the library's.
        (REFLECTION, reflection_pb2.ServerReflectionRequest(list_services="")),
    ],
)
async def test_a_client_that_leaves_while_it_is_written_to(
    address, by_grpc, logs, method, message
) -> None:
    """It has cancelled, and nothing was wrong; what served it is over before its call is gone."""
    # A client that gives no window is sent heads, and no message.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 0)]
    async with (
        grpc.aio.insecure_channel(address, options=options) as channel,
        asyncio.timeout(10),
    ):
        call = channel.unary_stream(method)(message.SerializeToString())
        await call.initial_metadata()
        call.cancel()
        while not by_grpc.counts:
            await asyncio.sleep(0.005)
    assert by_grpc.counts == {(method, "CANCELLED"): 1}
    assert not [each for each in logs if each["log_level"] == "error"]
