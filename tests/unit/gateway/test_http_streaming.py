from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from http_client import WrittenBody
from scripted_service import Pause, ended
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs

from gateway.answer import Answer
from gateway.choice import Choice
from gateway.generation_streams import GenerationStream
from gateway.http.formats.chat import ChatFormat
from gateway.http.formats.completion import CompletionFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.streaming import (
    DONE,
    KEEP_ALIVE,
    RESPONSE_BODY,
    Chunks,
    EventStream,
    StreamedAnswer,
    UsageWanted,
)
from gateway.request import GenerationRequest, TextPrompt
from gateway.text import TokenText
from gateway.tokens import MAX_TAKEN, Token
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import TandemError, Unavailable


class StuckBody(WrittenBody):
    """Of a client that does not read."""

    is_writable = False


@pytest.mark.parametrize("is_stuck_at_start", [True, False])
async def test_a_client_that_leaves_while_it_is_written_to(frontend, service, is_stuck_at_start):
    answer = await frontend.generate(GenerationRequest(prompts=(TextPrompt("Hi"),)))
    await answer.started()
    form = ChatFormat(frontend.tokenizer.token_bytes)
    envelope = Envelope("id", "o", 0, "mock")

    async def generated() -> Answer:
        return answer

    response = StreamedAnswer(generated, form, lambda _: envelope, UsageWanted())
    stuck = asyncio.Event()

    async def send(message):
        stuck.set()
        if is_stuck_at_start:
            await asyncio.sleep(3600)

    async def receive():
        await stuck.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "state": {RESPONSE_BODY: StuckBody()}}
    async with asyncio.timeout(10):
        await response(scope, receive, send)
    assert service.streams[0].cancelled.is_set()


async def write_events(
    tokenizer: Tokenizer,
    body: WrittenBody,
    streams: Sequence[GenerationStream],
    keep_alive_s: float = 3600,
) -> asyncio.Task[None]:
    """Begin to write an answer whose choices are these streams."""
    answer = Answer(
        request_id="r",
        model="mock",
        num_prompt_tokens=1,
        choices=[
            Choice(index, stream, TokenText(tokenizer.decode_stream()))
            for index, stream in enumerate(streams)
        ],
        on_close=lambda: None,
    )
    form = CompletionFormat(tokenizer.token_bytes)
    chunks = Chunks(answer, form, Envelope("id", "o", 0, "mock"), UsageWanted())
    events = EventStream(answer, chunks, body)
    events.begin(keep_alive_s)
    return asyncio.create_task(events.ended())


async def test_what_comes_while_a_client_does_not_read_goes_together(tokenizer):
    stream = GenerationStream(None, None)  # type: ignore[arg-type]
    body = StuckBody()
    running = await write_events(tokenizer, body, [stream], keep_alive_s=0.001)
    for position, token_id in enumerate(tokenizer.encode("Hello")):
        if stream.put(Token(position, token_id)):
            stream.tell()
    await asyncio.sleep(0.01)
    assert not body.pieces
    body.is_writable = True
    body.on_writable()
    (piece,) = body.pieces
    assert b'"text":"Hello"' in piece
    stream.put(ended())
    stream.tell()
    await running
    assert b"".join(body.pieces).endswith(DONE)


async def test_a_long_backlog_goes_in_parts_while_the_client_reads(tokenizer):
    """So that others have their turns between them."""
    num_choices, num_tokens = 5, 2 * MAX_TAKEN + 100
    streams = [GenerationStream(None, None) for _ in range(num_choices)]  # type: ignore[arg-type]
    body = StuckBody()
    running = await write_events(tokenizer, body, streams)
    for stream in streams:
        for position in range(num_tokens):
            if stream.put(Token(position, 72)):
                stream.tell()
        stream.put(ended())
    body.is_writable = True
    body.on_writable()
    assert len(body.pieces) == 1
    # What comes just then is no reason to write more at once.
    body.on_writable()
    assert len(body.pieces) == 1
    await asyncio.sleep(0)
    assert len(body.pieces) == 2
    # It does not read on: then it is waited for.
    body.is_writable = False
    await asyncio.sleep(0.01)
    assert len(body.pieces) == 2
    body.is_writable = True
    body.on_writable()
    await running
    assert max(piece.count(b"H") for piece in body.pieces) <= 2 * MAX_TAKEN
    assert b"".join(body.pieces).count(b"H") == num_choices * num_tokens
    assert body.pieces[-1].endswith(DONE)


async def test_what_fails_after_a_long_backlog_is_told_behind_it(tokenizer):
    stream = GenerationStream(None, None)  # type: ignore[arg-type]
    body = StuckBody()
    running = await write_events(tokenizer, body, [stream])
    for position in range(2 * MAX_TAKEN):
        if stream.put(Token(position, 72)):
            stream.tell()
    stream.put(Unavailable("the worker left"))
    stream.cancel = lambda: None  # type: ignore[method-assign]
    body.is_writable = True
    body.on_writable()
    await running
    text = b"".join(body.pieces)
    assert text.count(b"H") == 2 * MAX_TAKEN
    assert text.index(b"the worker left") > text.rindex(b"H")
    assert text.endswith(DONE)


async def test_a_failure_is_logged_under_its_own_name(tokenizer):
    """Whoever brings it: another's request, a worker, a client that reads again."""
    stream = GenerationStream(None, None)  # type: ignore[arg-type]
    running = await write_events(tokenizer, WrittenBody(), [stream])
    stream.cancel = lambda: None  # type: ignore[method-assign]
    with capture_logs([merge_contextvars]) as logs, bound_contextvars(request_id="another"):
        stream.put(TandemError("it broke"))
        stream.tell()
        await running
    (line,) = logs
    assert (line["event"], line["request_id"]) == ("request_failed", "r")


async def respond(frontend, until: Callable[[list[bytes]], bool]) -> tuple[list[int], list[bytes]]:
    """Statuses and pieces of a streamed answer, whose client leaves after what satisfies `until`,
    or reads it to its end."""
    form = CompletionFormat(frontend.tokenizer.token_bytes)
    envelope = Envelope("id", "o", 0, "mock")
    generate = partial(frontend.generate, GenerationRequest(prompts=(TextPrompt("Hi"),)))
    response = StreamedAnswer(generate, form, lambda _: envelope, UsageWanted(), keep_alive_s=0.01)
    statuses, enough = [], asyncio.Event()

    class Body(WrittenBody):
        def write(self, piece):
            super().write(piece)
            if until(self.pieces):
                enough.set()

    body = Body()

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            body.write(message["body"])

    async def receive():
        await enough.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "state": {RESPONSE_BODY: body}}
    async with asyncio.timeout(10):
        await response(scope, receive, send)
    return statuses, body.pieces


def has_comments(bodies: list[bytes]) -> bool:
    return bodies[-2:] == [KEEP_ALIVE] * 2


@pytest.mark.parametrize("tokens", [[], [72]])
async def test_a_stream_on_which_nothing_comes_is_kept_alive(frontend, service, tokens):
    """In the queue, where it begins without a token, and between tokens."""
    service.script = lambda request: [*tokens, Pause.FOREVER]
    statuses, bodies = await respond(frontend, has_comments)
    assert statuses == [200]
    assert len([body for body in bodies if body.startswith(b"data: ")]) == len(tokens)
    assert service.streams[0].cancelled.is_set()


async def test_what_fails_after_a_wait_is_an_event(frontend, service):
    service.script = lambda request: [*[Pause.A_MOMENT] * 10, Unavailable("no worker came")]
    statuses, bodies = await respond(frontend, lambda bodies: False)
    assert statuses == [200]
    assert bodies[0] == KEEP_ALIVE
    *_, failure, end = bodies
    assert b"no worker came" in failure and failure.endswith(DONE)
    assert end == b""


async def test_what_fails_at_once_has_a_status(frontend, service):
    service.script = lambda request: [Unavailable("no worker")]
    statuses, bodies = await respond(frontend, lambda bodies: False)
    assert statuses == [503]
    assert KEEP_ALIVE not in bodies


async def test_what_is_there_goes_with_the_head(frontend):
    form = ChatFormat(frontend.tokenizer.token_bytes)
    generate = partial(frontend.generate, GenerationRequest(prompts=(TextPrompt("Hi"),)))
    response = StreamedAnswer(generate, form, lambda _: Envelope("id", "o", 0, "m"), UsageWanted())
    writes: list[list[bytes]] = []

    class Body(WrittenBody):
        @contextmanager
        def together(self):
            yield
            writes.append([*self.pieces])

    body = Body()

    async def send(message):
        body.pieces.append(message["type"].encode())

    scope = {"type": "http", "method": "POST", "state": {RESPONSE_BODY: body}}
    await response(scope, asyncio.Event().wait, send)
    ((head, opening, first),) = writes
    assert head == b"http.response.start"
    assert b'"role":"assistant"' in opening and b'"content":"H"' in first


async def test_nothing_is_said_while_tokens_come(frontend, service):
    service.script = lambda request: [*[72] * 100, ended()]
    _, bodies = await respond(frontend, lambda bodies: False)
    assert KEEP_ALIVE not in bodies
    assert b"".join(bodies[-2:]).endswith(DONE)
