from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from scripted_service import Pause, ended

from gateway.http.formats.chat import ChatFormat
from gateway.http.formats.completion import CompletionFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.streaming import DONE, KEEP_ALIVE, StreamedAnswer, UsageWanted
from gateway.request import GenerationRequest, TextPrompt
from tandem.core.errors import Unavailable


@pytest.mark.parametrize("stuck_at", ["http.response.start", "http.response.body"])
async def test_a_client_that_leaves_while_it_is_written_to(frontend, service, stuck_at):
    answer = await frontend.generate(GenerationRequest(prompts=(TextPrompt("Hi"),)))
    await answer.started()
    form = ChatFormat(frontend.tokenizer.token_bytes)
    response = StreamedAnswer(answer, form, Envelope("id", "o", 0, "mock"), UsageWanted())
    stuck = asyncio.Event()

    async def send(message):
        if message["type"] == stuck_at:
            stuck.set()
            await asyncio.sleep(3600)

    async def receive():
        await stuck.wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(1):
        await response({"type": "http", "method": "POST"}, receive, send)
    assert service.streams[0].cancelled.is_set()


async def respond(frontend, until: Callable[[list[bytes]], bool]) -> tuple[list[int], list[bytes]]:
    """Statuses and pieces of a streamed answer, whose client leaves after what satisfies `until`,
    or reads it to its end."""
    answer = await frontend.generate(GenerationRequest(prompts=(TextPrompt("Hi"),)))
    form = CompletionFormat(frontend.tokenizer.token_bytes)
    envelope = Envelope("id", "o", 0, "mock")
    response = StreamedAnswer(answer, form, envelope, UsageWanted(), keep_alive_s=0.01)
    statuses, bodies, enough = [], [], asyncio.Event()

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            bodies.append(message["body"])
            if until(bodies):
                enough.set()

    async def receive():
        await enough.wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(10):
        await response({"type": "http", "method": "POST"}, receive, send)
    return statuses, bodies


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


async def test_nothing_is_said_while_tokens_come(frontend, service):
    service.script = lambda request: [*[72] * 100, ended()]
    _, bodies = await respond(frontend, lambda bodies: False)
    assert KEEP_ALIVE not in bodies
    assert bodies[-2:] == [DONE, b""]
