"""One streamed answer over a connection of its own: as little work as a client can do."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

import httptools
import orjson

from tandem.bench.answer import Answer
from tandem.bench.http_head import authorization
from tandem.bench.refusal import error_text, refusal_text
from tandem.bench.token_count import TokenCount
from tandem.bench.workload import Prompt
from tandem.core.address import Address

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
OPENAI_FIELDS = {"temperature": 0.0, "stream": True, "stream_options": {"include_usage": True}}
# What servers need to be told, each in its own words; none minds the others'. vLLM, Tandem: the
# usage with each chunk. llama.cpp: timings with each token, no cache of prompts.
FIELDS = {
    **OPENAI_FIELDS,
    "ignore_eos": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "timings_per_token": True,
    "cache_prompt": False,
}
# For `Endpoint.fields`: to tell it with each chunk takes time, too.
NO_USAGE = {"stream_options": None}
OUR_OWN = {*FIELDS, "continuous_usage_stats"} - {*OPENAI_FIELDS}
# This machine, or this process, has no more connections to give: of no server's making.
OWN_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)
OWN_FAILURE = "the load tool cannot connect"
OK = 200
# Of a refusal's body.
MAX_REFUSAL = 1 << 16


@dataclass(frozen=True)
class Endpoint:
    """Where answers come from. `fields` are added to each request, and the API key, or that of the
    environment, if there is one.

    `is_exact`: whether a prompt must become the tokens that it is made of, and each chunk's number
    of tokens be known; what is not so is then a problem. `ignore_eos`: answers are as long as was
    asked for; without it only OpenAI's own fields are sent.
    """

    host: str
    port: int
    model: str = "default"
    path: str = COMPLETIONS
    fields: dict[str, Any] = field(default_factory=dict)
    api_key: str | None = None
    tls: ssl.SSLContext | None = None
    is_exact: bool = True
    ignore_eos: bool = True

    @property
    def is_chat(self) -> bool:
        return self.path.endswith(CHAT)

    def request(self, prompt: Prompt) -> bytes:
        """A whole HTTP request."""
        body = orjson.dumps(
            {
                "model": self.model,
                **self._asked(prompt),
                "max_tokens": prompt.num_output,
                **(FIELDS if self.ignore_eos else OPENAI_FIELDS),
                **self.fields,
            }
        )
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {Address(self.host, self.port)}\r\n"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
            f"{self._headers()}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _asked(self, prompt: Prompt) -> dict[str, Any]:
        if self.is_chat:
            return {"messages": [{"role": "user", "content": prompt.text}]}
        return {"prompt": prompt.text or prompt.token_ids}

    def _headers(self) -> str:
        return "".join(
            f"{name}: {value}\r\n" for name, value in authorization(self.api_key).items()
        )


class CompletionStream(asyncio.Protocol):
    """Notes when tokens come, and what the server tells of the answer."""

    def __init__(self, request: bytes, answer: Answer, is_exact: bool) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._answer = answer
        self._is_exact = is_exact
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._now = 0.0
        self._tokens = TokenCount(answer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._answer.sent_s = perf_counter()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not what a server says: {error.__context__ or error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_refused:
            self._refused()
        elif not self.ended.done():
            self._fail(f"the connection ended early ({exc or 'closed'})")

    # The parser's callbacks.

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            self._body += body[: MAX_REFUSAL - len(self._body)]
            return
        *lines, self._body = (self._body + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def on_message_complete(self) -> None:
        if self._is_refused:
            self._refused()
        elif not self.ended.done():
            self._fail("the stream ended without [DONE]")

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            if not self.ended.done():
                self.ended.set_result(None)
            return
        chunk = orjson.loads(data)
        if error := chunk.get("error"):
            self._fail(error_text(error))
            return
        if usage := chunk.get("usage"):
            self._told(usage)
        self._tokens.feed(chunk, self._now)
        if self._is_exact and self._tokens.doubt:
            self._fail(self._tokens.doubt)
        self._answer.told |= chunk.get("tandem") or {}

    def _told(self, usage: dict[str, Any]) -> None:
        num_prompt = usage["prompt_tokens"]
        if self._is_exact and num_prompt != len(self._answer.prompt.token_ids):
            self._fail(f"the prompt became {num_prompt} tokens")
        details = usage.get("prompt_tokens_details") or {}
        self._answer.told["prompt_tokens"] = num_prompt
        self._answer.told["cached_tokens"] = details.get("cached_tokens")

    @property
    def _is_refused(self) -> bool:
        """Whether there is a status, and it is not the one that answers have."""
        return self._parser.get_status_code() not in (0, OK)

    def _refused(self) -> None:
        self._fail(refusal_text(self._parser.get_status_code(), self._body))

    def _fail(self, problem: str) -> None:
        self._answer.error = self._answer.error or problem
        if not self.ended.done():
            self.ended.set_result(None)


def hinted(problem: str) -> str:
    """With what helps, where a server refuses a field that is not OpenAI's."""
    if not problem.startswith("status 4") or not any(name in problem for name in OUR_OWN):
        return problem
    return f"{problem} (--no-ignore-eos sends OpenAI's own fields only)"


def _is_own(error: OSError) -> bool:
    # Where a host has several addresses the text alone says what befell each of them.
    return any(each == error.errno or os.strerror(each) in str(error) for each in OWN_ERRNOS)


async def complete(endpoint: Endpoint, answer: Answer) -> None:
    """Ask, and wait for the end. Whatever goes wrong is told in the answer."""
    answer.may_be_shorter = not endpoint.ignore_eos
    request = endpoint.request(answer.prompt)
    loop = asyncio.get_running_loop()
    try:
        transport, stream = await loop.create_connection(
            lambda: CompletionStream(request, answer, endpoint.is_exact),
            endpoint.host,
            endpoint.port,
            ssl=endpoint.tls,
        )
    except OSError as error:
        answer.found_nobody = True
        answer.error = f"{OWN_FAILURE if _is_own(error) else 'cannot connect'}: {error}"
        return
    try:
        await stream.ended
    finally:
        transport.close()
