"""One streamed completion over a connection of its own: as little work as a client can do."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

import httptools
import orjson

from tandem.bench.answer import Answer
from tandem.bench.workload import Prompt
from tandem.wire.metadata import API_KEY_VARIABLE

# What servers need to be told, each in its own words; none minds the others'. vLLM, Tandem: the
# usage with each chunk. llama.cpp: timings with each token, no cache of prompts.
FIELDS = {
    "temperature": 0.0,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "timings_per_token": True,
    "cache_prompt": False,
}


@dataclass(frozen=True)
class Endpoint:
    """Where completions come from. `fields` are added to each request, and the API key of the
    environment, if there is one."""

    host: str
    port: int
    model: str = "default"
    path: str = "/v1/completions"
    fields: dict[str, Any] = field(default_factory=dict)

    def request(self, prompt: Prompt, content: str | None = None) -> bytes:
        """A whole HTTP request. `content`: the prompt as text, where it must be one."""
        body = orjson.dumps(
            {
                "model": self.model,
                "prompt": prompt.token_ids if content is None else content,
                "max_tokens": prompt.num_output,
                **FIELDS,
                **self.fields,
            }
        )
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
            f"{_authorization()}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _authorization() -> str:
    key = os.environ.get(API_KEY_VARIABLE)
    return f"Authorization: Bearer {key}\r\n" if key else ""


class CompletionStream(asyncio.Protocol):
    """Notes when tokens come. A chunk's number of tokens is what the server says; where it says
    nothing, a chunk with text is one token, and the usage at the end must agree."""

    def __init__(self, request: bytes, answer: Answer) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._answer = answer
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._now = 0.0
        self._num_unsaid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._answer.sent_s = perf_counter()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._fail(f"the connection ended early ({exc or 'closed'})")

    # The parser's callbacks.

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._fail(f"status {self._parser.get_status_code()}: {body[:200]!r}")
            return
        *lines, self._body = (self._body + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def on_message_complete(self) -> None:
        if not self.ended.done():
            self._fail("the stream ended without [DONE]")

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            if not self.ended.done():
                self.ended.set_result(None)
            return
        chunk = orjson.loads(data)
        if "error" in chunk:
            self._fail(f"error: {chunk['error']}")
            return
        self._count(chunk)

    def _count(self, chunk: dict[str, Any]) -> None:
        answer = self._answer
        choices = chunk.get("choices")
        if usage := chunk.get("usage"):
            if usage["prompt_tokens"] != len(answer.prompt.token_ids):
                self._fail(f"the prompt became {usage['prompt_tokens']} tokens")
            if not choices and self._num_unsaid and usage["completion_tokens"] != answer.num_tokens:
                self._fail(
                    f"{usage['completion_tokens']} tokens in {self._num_unsaid} chunks, and the"
                    " server does not say which chunk has how many"
                )
            answer.note(self._now, usage["completion_tokens"])
        elif timings := chunk.get("timings"):
            answer.note(self._now, timings["predicted_n"])
        elif choices and choices[0].get("text"):
            self._num_unsaid += 1
            answer.note(self._now, answer.num_tokens + 1)

    def _fail(self, problem: str) -> None:
        self._answer.error = self._answer.error or problem
        if not self.ended.done():
            self.ended.set_result(None)


async def complete(endpoint: Endpoint, answer: Answer, content: str | None = None) -> None:
    """Ask, and wait for the end. Whatever goes wrong is told in the answer."""
    request = endpoint.request(answer.prompt, content)
    loop = asyncio.get_running_loop()
    try:
        transport, stream = await loop.create_connection(
            lambda: CompletionStream(request, answer), endpoint.host, endpoint.port
        )
    except OSError as error:
        answer.error = f"cannot connect: {error}"
        return
    try:
        await stream.ended
    finally:
        transport.close()
