"""The gRPC side and its clients, over a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import grpc
import pytest
from grpc_client import serving
from scripted_service import Pause

import tandem
from gateway.grpc_request import request_from_wire
from tandem.client import ServedBy
from tandem.core.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Fenced,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    TandemError,
    Unavailable,
)
from tandem.v1 import inference_pb2, inference_pb2_grpc

HELLO = "Hello, world"


@pytest.fixture
async def address(frontend, service):
    async with serving(frontend, service) as address:
        yield address


@pytest.fixture
async def client(address):
    async with tandem.AsyncClient(address) as client:
        yield client


@pytest.fixture
async def stub(address):
    async with grpc.aio.insecure_channel(address) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


async def cancelled(service, logs) -> None:
    async with asyncio.timeout(10):
        await service.streams[0].cancelled.wait()
    assert not logs


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "Hi"},
        {"token_ids": [72, 105]},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ],
)
async def test_generate(client, service, tokenizer, prompt):
    completion = await client.generate(
        **prompt, max_tokens=20, temperature=0, seed=7, stop=["#"], request_id="mine"
    )
    assert completion.text == HELLO
    assert list(completion.token_ids) == tokenizer.encode(HELLO)
    assert (completion.finish_reason, completion.num_tokens) == ("length", 12)
    assert completion.served_by == ServedBy(
        "prefill-0", "decode-0", 4096, 2, num_preemptions=2, num_losses=1, num_bad_transfers=3
    )
    assert (completion.request_id, completion.model) == ("mine", "mock")
    request = service.requests[0]
    assert completion.num_prompt_tokens == len(request.prompt_token_ids)
    assert (request.params.temperature, request.params.seed) == (0, 7)


async def test_absent_fields_take_defaults(client, service):
    await client.generate(prompt="Hi")
    params = service.requests[0].params
    assert (params.temperature, params.top_p, params.max_tokens) == (1.0, 1.0, 2046)


async def test_stream(client):
    async with client.stream(prompt="Hi", stop="wor") as stream:
        text = "".join([delta.text async for delta in stream])
        assert text == stream.completion.text == "Hello, "
        assert stream.completion.finish_reason == "stop"


async def test_models_and_timeline(client, stub, service):
    (model,) = await client.models()
    assert (model.id, model.max_model_len) == ("mock", 2048)
    timeline = await stub.GetTimeline(inference_pb2.GetTimelineRequest(window_ms=5))
    assert timeline.lanes[0].worker_id == "last 5"
    service.model = None
    assert await client.models() == []


@pytest.mark.parametrize(
    ("arguments", "kind", "param"),
    [
        ({"prompt": "Hi", "temperature": -1}, InvalidRequest, "temperature"),
        ({"prompt": "x" * 5000}, ContextLengthExceeded, "prompt"),
        ({"prompt": "Hi", "max_tokens": 2**32 - 1}, ContextLengthExceeded, "max_tokens"),
        ({"prompt": "Hi", "model": "gpt"}, NotFound, "model"),
        # Of which the server does not hear.
        ({"prompt": "Hi", "flux": 1}, InvalidRequest, "flux"),
    ],
)
async def test_bad_input(client, service, arguments, kind, param):
    with pytest.raises(kind) as caught:
        await client.generate(**arguments)
    assert type(caught.value) is kind
    assert caught.value.param == param
    assert not service.requests


async def test_an_id_that_runs_names_nothing_else(client, service):
    answers = service.script
    service.script = lambda request: [72, Pause.FOREVER]
    async with client.stream(prompt="Hi", request_id="mine") as stream:
        await anext(aiter(stream))
        again = [client.generate(prompt="Hi", request_id="mine") for _ in range(100)]
        refusals = await asyncio.gather(*again, return_exceptions=True)
        assert {(type(each), each.param) for each in refusals} == {(InvalidRequest, "request_id")}
        assert len(service.requests) == 1
        assert not service.streams[0].cancelled.is_set()
    await service.streams[0].cancelled.wait()
    service.script = answers
    assert (await client.generate(prompt="Hi", request_id="mine")).text


def test_lists_are_counted_before_anything_is_made_of_their_entries(monkeypatch):
    message = inference_pb2.GenerateRequest()
    for _ in range(100_000):
        message.chat.messages.add()
    monkeypatch.delattr("gateway.grpc_request.ChatMessage")
    with pytest.raises(InvalidRequest, match="at most 2048 entries, and has 100000") as caught:
        request_from_wire(message)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("num_tokens", [0, 2])
@pytest.mark.parametrize(
    "error",
    [
        ResourceExhausted("full", retry_after_s=2.5),
        Unavailable("none", retry_after_s=1.0),
        Fenced("an older term"),
        InvalidRequest("no", param="x"),
    ],
)
async def test_errors_arrive_as_they_were_raised(client, service, error, num_tokens):
    service.script = lambda request: [72] * num_tokens + [error]
    with pytest.raises(TandemError) as caught:
        await client.generate(prompt="Hi")
    raised = caught.value
    assert type(raised) is type(error)
    assert (raised.message, raised.param) == (error.message, error.param)
    assert raised.retry_after_s == error.retry_after_s


async def test_an_unexpected_error_is_logged_and_not_told(client, service, logs):
    service.script = lambda request: [72, RuntimeError("secret")]
    with pytest.raises(TandemError, match="internal error") as caught:
        await client.generate(prompt="Hi")
    assert type(caught.value) is TandemError
    assert "secret" in str(logs[0]["exc_info"])


@pytest.mark.parametrize("num_tokens", [0, 2])
async def test_a_deadline_ends_the_generation(client, service, logs, num_tokens):
    service.script = lambda request: [72] * num_tokens + [Pause.FOREVER]
    with pytest.raises(DeadlineExceeded):
        # Long enough to be begun with on a busy machine.
        await client.generate(prompt="Hi", timeout=1.0)
    await cancelled(service, logs)


async def test_cancel_ends_the_generation_and_the_iteration(client, service, logs):
    service.script = lambda request: [72, 73, Pause.FOREVER]
    stream = client.stream(prompt="Hi")
    assert (await anext(stream)).token_ids == (72,)
    stream.cancel()
    assert [delta async for delta in stream] in ([], [(73,)])
    await cancelled(service, logs)


async def test_a_cancelled_task_ends_the_generation(client, service, logs):
    service.script = lambda request: [72, Pause.FOREVER]
    task = asyncio.create_task(client.generate(prompt="Hi"))
    async with asyncio.timeout(10):
        await service.generated(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await cancelled(service, logs)


async def test_leaving_at_any_moment_ends_the_generation(client, service, logs):
    service.script = lambda request: [72] * 500 + [Pause.FOREVER]
    for num_deltas in range(0, 40, 4):
        async with client.stream(prompt="Hi") as stream:
            for _ in range(num_deltas):
                await anext(stream)
    assert len(service.streams) >= 9
    async with asyncio.timeout(10):
        for stream in service.streams:
            await stream.cancelled.wait()
    assert not logs


async def test_nobody_there():
    async with tandem.AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await client.models()


async def test_the_blocking_client(address, service):
    def use() -> None:
        with tandem.Client(address) as client:
            assert client.generate(prompt="Hi").text == HELLO
            assert client.models()[0].id == "mock"
            assert client.detokenize(client.tokenize(prompt=HELLO)) == HELLO
            with client.stream(prompt="Hi") as stream:
                assert "".join(delta.text for delta in stream) == HELLO
                assert stream.completion.num_tokens == 12
            with pytest.raises(NotFound) as caught:
                client.generate(prompt="Hi", model="gpt")
            assert caught.value.param == "model"
            service.script = lambda request: [72, Pause.FOREVER]
            with pytest.raises(DeadlineExceeded):
                client.generate(prompt="Hi", timeout=0.2)

    await asyncio.to_thread(use)


async def test_the_blocking_client_cancels(address, service, logs):
    service.script = lambda request: [72, Pause.FOREVER]

    def use() -> None:
        with tandem.Client(address) as client:
            stream = client.stream(prompt="Hi")
            next(stream)
            stream.cancel()
            assert list(stream) == []
            with pytest.raises(Unavailable):
                _ = stream.completion

    await asyncio.to_thread(use)
    await cancelled(service, logs)


def test_the_address_comes_from_the_environment(monkeypatch):
    from tandem.client.connection import resolve_address

    monkeypatch.delenv("TANDEM_ADDRESS", raising=False)
    assert resolve_address(None) == "127.0.0.1:50050"
    monkeypatch.setenv("TANDEM_ADDRESS", "gw:1")
    assert resolve_address(None) == "gw:1"
    assert resolve_address("other:2") == "other:2"


def test_importing_tandem_is_cheap():
    check = "import sys, tandem; assert 'grpc' not in sys.modules; tandem.Client"
    subprocess.run([sys.executable, "-c", check], check=True)
