"""Clients that are closed, and tasks that are cancelled, while a call is under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from tandem import AsyncClient, Client
from tandem.client import AsyncCompletionStream
from tandem.core.errors import Cancelled
from tandem.v1 import inference_pb2, inference_pb2_grpc

TIMEOUT_S = 10.0

Call = Callable[[AsyncClient], Awaitable[object]]
CALLS: dict[str, Call] = {
    "generate": lambda client: client.generate(prompt="Hi"),
    "tokenize": lambda client: client.tokenize(prompt="Hi"),
    "detokenize": lambda client: client.detokenize([1]),
    "models": lambda client: client.models(),
}


class Server:
    """Answers a generation's first token, and then nothing until the end. `asked` is set once it
    has been asked for anything, `left` once a generation's client has left."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.left = threading.Event()
        self._over = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        servicer = Mock(
            inference_pb2_grpc.InferenceServiceServicer,
            Generate=self._generate,
            Tokenize=self._wait,
            Detokenize=self._wait,
            ListModels=self._wait,
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._over.set()
        self._server.stop(None).wait()

    def _generate(
        self, request: object, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.GenerateResponse]:
        context.add_callback(self.left.set)
        yield inference_pb2.GenerateResponse(delta=inference_pb2.TokenDelta(text="Hello"))
        self._wait()

    def _wait(self, *_: object) -> Any:
        self.asked.set()
        self._over.wait(TIMEOUT_S)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as client:
        yield client


async def until_asked(server: Server) -> None:
    """Until a call is under way."""
    assert await asyncio.to_thread(server.asked.wait, TIMEOUT_S)


async def reading(client: AsyncClient) -> tuple[AsyncCompletionStream, asyncio.Task[str]]:
    """A stream, and a task that waits for what will not come of it."""
    stream = client.stream(prompt="Hi")
    assert (await anext(stream)).text == "Hello"
    task = asyncio.create_task(read(stream))
    await asyncio.sleep(0)  # the task has its turn, and waits
    assert not task.done()
    return stream, task


async def read(stream: AsyncCompletionStream) -> str:
    return "".join([delta.text async for delta in stream])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_call_that_close_ends_is_no_end_of_its_task(
    server: Server, client: AsyncClient, call: Call
) -> None:
    task = asyncio.ensure_future(call(client))
    await until_asked(server)
    await client.close()
    with pytest.raises(Cancelled):
        await task


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_task_that_is_cancelled_ends(
    server: Server, client: AsyncClient, call: Call
) -> None:
    task = asyncio.ensure_future(call(client))
    await until_asked(server)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_group_of_tasks_is_told_that_the_client_was_closed(
    server: Server, client: AsyncClient
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(read(client.stream(prompt="Hi")))
            await until_asked(server)
            await client.close()
    assert caught.group_contains(Cancelled)


async def test_a_stream_that_was_read_before_close_says_so_after(client: AsyncClient) -> None:
    stream = client.stream(prompt="Hi")
    assert (await anext(stream)).text == "Hello"
    await client.close()
    with pytest.raises(Cancelled):
        await anext(stream)


async def test_a_stream_that_was_cancelled_just_ends(client: AsyncClient) -> None:
    stream, task = await reading(client)
    stream.cancel()
    assert await task == ""
    assert await read(stream) == ""


async def test_its_reader_can_be_cancelled_all_the_same(client: AsyncClient) -> None:
    stream, task = await reading(client)
    stream.cancel()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_stream_that_is_forgotten_ends(server: Server, client: AsyncClient) -> None:
    async for _ in client.stream(prompt="Hi"):
        break
    assert await asyncio.to_thread(server.left.wait, TIMEOUT_S)


def test_without_an_event_loop_a_forgotten_stream_ends_too(server: Server) -> None:
    with Client(server.address) as client:
        for _ in client.stream(prompt="Hi"):
            break
        assert server.left.wait(TIMEOUT_S)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_closed", [True, False])
def test_one_that_is_forgotten_after_its_event_loop_is_no_matter(
    server: Server, is_closed: bool
) -> None:
    async def begin() -> AsyncCompletionStream:
        client = AsyncClient(server.address)
        stream = client.stream(prompt="Hi")
        await anext(stream)
        if is_closed:
            await client.close()
        return stream

    stream = asyncio.run(begin())
    del stream


def test_without_an_event_loop_it_is_the_same(server: Server) -> None:
    client = Client(server.address)
    with client.stream(prompt="Hi") as stream:
        assert next(stream).text == "Hello"
        client.close()
        with pytest.raises(Cancelled):
            next(stream)


async def test_a_closed_client_says_so(client: AsyncClient, server: Server) -> None:
    closed = Client(server.address)
    for _ in range(2):
        closed.close()
        await client.close()
    for begin in (
        closed.models,
        lambda: closed.detokenize([1]),
        lambda: closed.tokenize(prompt="Hi"),
        lambda: closed.generate(prompt="Hi"),
        lambda: closed.stream(prompt="Hi"),
        lambda: client.stream(prompt="Hi"),
    ):
        with pytest.raises(Cancelled, match="the client is closed"):
            begin()
    for call in CALLS.values():
        with pytest.raises(Cancelled, match="the client is closed"):
            await call(client)
