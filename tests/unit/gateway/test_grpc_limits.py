"""What a client may hold by gRPC: calls, and answers that it does not read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import grpc
import grpc_client
import pytest
from grpc_client import SERVICE
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from scripted_service import Pause, ScriptedGrammars, ScriptedService

from gateway import grpc_calls
from gateway.access import Access
from gateway.frontend import Frontend
from gateway.grpc_access import AccessInterceptor
from gateway.grpc_calls import CallLimit
from gateway.grpc_inference import InferenceServicer
from gateway.refusals import Refusals
from gateway.tenants import ONE_TENANT, Tenant
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import Cancelled
from tandem.v1 import inference_pb2, inference_pb2_grpc

REQUEST = inference_pb2.GenerateRequest(text="Hi", max_tokens=2000)
MAX_CALLS = 2
READ_TIMEOUT_S = 0.3
# Which takes a stream of messages.
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def refused() -> Counter[str]:
    return Counter()


@pytest.fixture
async def channel(
    frontend: Frontend, service: ScriptedService, refused: Counter[str]
) -> AsyncIterator[grpc.aio.Channel]:
    refusals = Refusals(refused)
    # As the gateway has them.
    interceptors = [
        AccessInterceptor(Access(), refusals),
        CallLimit(Access(), refusals, MAX_CALLS),
    ]
    async with serving(frontend, service, interceptors) as channel:
        yield channel


@asynccontextmanager
async def serving(
    frontend: Frontend,
    service: ScriptedService,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.http2.bdp_probe", 0), *options]
    async with (
        grpc_client.serving(frontend, service, interceptors, READ_TIMEOUT_S) as address,
        grpc.aio.insecure_channel(address, options=options) as channel,
    ):
        yield channel


async def test_calls_too_many_are_refused_and_counted(
    channel: grpc.aio.Channel, service: ScriptedService, refused: Counter[str]
) -> None:
    service.script = lambda request: [Pause.FOREVER]
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    calls = []
    for _ in range(MAX_CALLS):
        calls.append(stub.Generate(REQUEST))
        assert (await calls[-1].read()).HasField("started")
    for each in (
        stub.Generate(REQUEST),
        stub.ListModels(inference_pb2.ListModelsRequest()),
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
    ):
        assert await each.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused == {"RESOURCE_EXHAUSTED": 3}
    calls[0].cancel()
    async with asyncio.timeout(10):
        await service.streams[0].cancelled.wait()
        # A place is free once its method has ended.
        while await stub.ListModels(inference_pb2.ListModelsRequest()).code() is (
            grpc.StatusCode.RESOURCE_EXHAUSTED
        ):
            pass
    calls[1].cancel()


async def test_one_tenants_calls_leave_some_to_others(
    service: ScriptedService, tokenizer: Tokenizer, refused: Counter[str]
) -> None:
    access = Access({**ONE_TENANT, "one": Tenant(), "other": Tenant()})
    frontend = Frontend(service, tokenizer, ScriptedGrammars(), access=access)
    service.script = lambda request: [Pause.FOREVER]
    limit = CallLimit(access, Refusals(refused), 8)
    async with serving(frontend, service, [limit]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def begins(tenant: str) -> bool:
            call = stub.Generate(REQUEST, metadata=(("x-tandem-tenant", tenant),))
            calls.append(call)
            with suppress(grpc.aio.AioRpcError):
                return bool(await call.read())
            return False

        calls: list[grpc.aio.UnaryStreamCall[Any, Any]] = []
        assert [await begins("one") for _ in range(8)] == [True] * 6 + [False] * 2
        assert await begins("other")
        assert not await begins("one")
        for call in calls:
            call.cancel()
    assert refused == {"RESOURCE_EXHAUSTED": 3}
    frontend.close()


@pytest.mark.parametrize("method", ["Generate", "Tokenize"])
async def test_a_call_has_a_place_from_its_head_on_and_brings_its_message_in_time(
    channel: grpc.aio.Channel,
    refused: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """Whoever only began calls would have all that the server takes, and others none."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    begin = channel.stream_stream(f"/{SERVICE}/{method}")
    silent = [begin() for _ in range(MAX_CALLS)]
    async with asyncio.timeout(10):
        while not refused:
            await stub.ListModels(inference_pb2.ListModelsRequest()).code()
        monkeypatch.setattr(grpc_calls, "ASK_S", 0.01)
        for call in silent:
            call.cancel()
        while await (late := begin()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            pass
    assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("path", [f"/{SERVICE}/Generate", f"/{SERVICE}/Tokenize", REFLECTION])
async def test_what_is_no_message_is_its_clients_fault_and_no_traceback(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    call = channel.unary_stream(path)(b"\xff")
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await call.details() == "the message is none of this method's"
    assert not caplog.records


async def test_a_call_has_its_place_until_its_answer_is_written(
    frontend: Frontend, service: ScriptedService, refused: Counter[str]
) -> None:
    """Answers that nobody reads would be kept, however many they are."""
    limit = CallLimit(Access(), Refusals(refused), MAX_CALLS)
    # A client that gives no window is sent heads, and no message.
    no_window = [("grpc.http2.lookahead_bytes", 0)]
    async with serving(frontend, service, [limit], no_window) as channel, asyncio.timeout(10):
        # Of one with a single answer a client of gRPC's would read that.
        tokenize = channel.unary_stream(f"/{SERVICE}/Tokenize")
        asked = inference_pb2.TokenizeRequest(text="Hi").SerializeToString()
        calls = [tokenize(asked) for _ in range(MAX_CALLS)]
        for call in calls:
            await call.initial_metadata()
        assert await tokenize(asked).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()


async def test_every_kind_of_call_gives_its_place_back(channel: grpc.aio.Channel) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    health = health_pb2_grpc.HealthStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    for _ in range(MAX_CALLS + 1):
        (listed,) = [each async for each in reflection.ServerReflectionInfo(iter([asked]))]
        assert listed.list_services_response.service
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_who_reads_nothing_is_cut_off(
    channel: grpc.aio.Channel, service: ScriptedService
) -> None:
    service.script = lambda request: [72] * 20_000
    request = inference_pb2.GenerateRequest(text="Hi", max_tokens=2000, logprobs=20)
    call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(request)
    assert (await call.read()).HasField("started")
    stream = service.streams[0]
    async with asyncio.timeout(20):
        await stream.cancelled.wait()
    # What was not written was not taken either.
    assert stream.num_tokens < 10_000
    # It is told so behind what it can still read.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
        await call
    assert caught.value.code() is grpc.StatusCode.CANCELLED


class SlowReader:
    """Takes so many seconds for each message, as the event loop has them."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = [*seconds]
        self.num_read = 0

    async def write(self, message: object) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time() + self._seconds.pop(0)
        loop.time = lambda: now_s  # type: ignore[method-assign]
        # What is due by then, and what comes of that.
        for _ in range(3):
            await asyncio.sleep(0)
        self.num_read += 1


async def test_the_time_to_read_is_that_of_each_message(
    frontend: Frontend, service: ScriptedService
) -> None:
    """Though many come together."""
    servicer = InferenceServicer(frontend, service, cast(Any, None), 60.0)
    messages = [inference_pb2.GenerateResponse()] * 10
    loop = asyncio.get_running_loop()
    try:
        reader = SlowReader(*[50.0] * 10)
        await servicer._write(cast(Any, reader), messages)
        assert reader.num_read == 10
        reader = SlowReader(50.0, 50.0, 61.0)
        with pytest.raises(Cancelled):
            await servicer._write(cast(Any, reader), messages)
        assert reader.num_read == 2
    finally:
        del loop.time
