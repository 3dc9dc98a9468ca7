from __future__ import annotations

import asyncio

import pytest

from gateway.http.formats.chat import ChatFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.streaming import StreamedAnswer, UsageWanted
from gateway.request import GenerationRequest, TextPrompt


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
