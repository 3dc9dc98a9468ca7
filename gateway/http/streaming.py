"""Answers as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.answer import Answer
from gateway.choice import Delta, Finished
from gateway.http.disconnect import unless_disconnected
from gateway.http.errors import describe
from gateway.http.formats.answer_format import AnswerFormat, finish_reason
from gateway.http.formats.envelope import Envelope, choice_json
from gateway.http.formats.usage import UsageMeter, served_by_json
from tandem.core.errors import Cancelled


@dataclass(frozen=True, slots=True)
class UsageWanted:
    """Whether a stream has a last chunk with the usage, and whether each has the usage so far."""

    at_end: bool = False
    continuous: bool = False


class StreamedAnswer(Response):
    """Streams an answer that has started, and ends it when the client leaves.

    Each chunk is one message to the server and nothing else: a library's cancel scope around each
    would cost as much as all the rest that is done for a token here.
    """

    headers_of_stream = (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        # nginx would hold chunks back.
        (b"x-accel-buffering", b"no"),
    )

    def __init__(
        self, answer: Answer, form: AnswerFormat, envelope: Envelope, usage: UsageWanted
    ) -> None:
        super().__init__()
        self.raw_headers = list(self.headers_of_stream)
        self._answer = answer
        self._chunks = _Chunks(answer, form, envelope, usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answer, suppress(Cancelled):
            await unless_disconnected(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        headers = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(headers)
        async for events in _events(self._answer, self._chunks):
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Chunks:
    """The events' bytes. What the chunks of an answer share is made once."""

    def __init__(
        self, answer: Answer, form: AnswerFormat, envelope: Envelope, usage: UsageWanted
    ) -> None:
        self._form = form
        self._envelope = envelope
        self._wanted = usage
        self._usage = UsageMeter(answer)
        self._num_choices = answer.num_choices
        self._head = b"data: " + envelope.head
        # OpenAI's chunks have a usage each if any has: null, but in the last.
        self._tail = b'],"usage":null}\n\n' if usage.at_end else b"]}\n\n"

    def opening(self) -> bytes:
        content = self._form.opening()
        if content is None:
            return b""
        return b"".join(
            self._chunk(choice_json(index, content, b"null", None))
            for index in range(self._num_choices)
        )

    def of(self, event: Delta | Finished) -> bytes:
        """The chunk that an event makes, empty if none."""
        self._usage.add(event)
        if isinstance(event, Finished):
            return self._closing(event)
        content = self._form.delta(event)
        if content is None:
            return b""
        logprobs = self._form.logprobs(event.scored) if event.scored else b"null"
        return self._chunk(choice_json(event.choice_index, content, logprobs, None))

    def ending(self) -> bytes:
        """What follows the last choice's end."""
        if not self._wanted.at_end:
            return b""
        return _event(self._envelope.wrap(b"", usage=self._usage.json()))

    def _closing(self, finished: Finished) -> bytes:
        choice = choice_json(
            finished.choice_index, self._form.closing(), b"null", finish_reason(finished)
        )
        served_by = orjson.dumps(served_by_json(finished.served_by))
        return self._chunk(choice + b'],"tandem":' + served_by, closed=True)

    def _chunk(self, choice: bytes, closed: bool = False) -> bytes:
        tail = self._tail
        if self._wanted.continuous:
            tail = b'],"usage":' + orjson.dumps(self._usage.json()) + b"}\n\n"
        return b"".join((self._head, choice, tail[1:] if closed else tail))


async def _events(answer: Answer, chunks: _Chunks) -> AsyncIterator[bytes]:
    """What is to be written, as much at a time as there is."""
    try:
        if opening := chunks.opening():
            yield opening
        async for events in answer:
            if written := b"".join(map(chunks.of, events)):
                yield written
        if ending := chunks.ending():
            yield ending
    except Exception as error:
        # The status is sent; an event is all that can still tell the client.
        yield _event(describe(error).json())
    yield b"data: [DONE]\n\n"


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
