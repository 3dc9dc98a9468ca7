"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
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
from gateway.http.formats.answer_format import AnswerFormat
from gateway.http.formats.envelope import Envelope, choice_json
from gateway.http.formats.usage import UsageMeter, served_by_json
from tandem.core.errors import Cancelled

# Twice that is a half of what proxies and load balancers commonly wait.
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class UsageWanted:
    """Whether a stream has a last chunk with the usage, and whether each has the usage so far."""

    at_end: bool = False
    continuous: bool = False


class StreamedAnswer(Response):
    """Streams an answer, and ends it when the client leaves.

    What fails before the first token has a status of its own, unless that is long in coming: then
    the stream begins without it.

    Each chunk is one message to the server and nothing else: a library's cancel scope around each
    would cost as much as all the rest that is done for a token here.
    """

    def __init__(
        self,
        answer: Answer,
        form: AnswerFormat,
        envelope: Envelope,
        usage: UsageWanted,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        """Never is nothing sent for longer than twice `keep_alive_s`."""
        super().__init__()
        self._answer = answer
        self._chunks = _Chunks(answer, form, envelope, usage)
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answer, suppress(Cancelled):
            await unless_disconnected(receive, self._respond(scope, receive, EventStream(send)))

    async def _respond(self, scope: Scope, receive: Receive, stream: EventStream) -> None:
        keeping_alive = asyncio.create_task(stream.keep_alive(self._keep_alive_s))
        try:
            failure = await self._write(stream)
        finally:
            keeping_alive.cancel()
        if failure is None:
            await stream.end()
        else:
            await describe(failure).response()(scope, receive, stream.send)

    async def _write(self, stream: EventStream) -> Exception | None:
        """What failed before anything was sent."""
        try:
            await self._answer.started()
        except Exception as error:
            if not stream.has_begun:
                return error
            await stream.write(_failure(error))
            return None
        async for events in _events(self._answer, self._chunks):
            await stream.write(events)
        return None


class EventStream:
    """A response of server-sent events, which begins with the first of them."""

    headers = (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        # nginx would hold chunks back.
        (b"x-accel-buffering", b"no"),
    )

    def __init__(self, send: Send) -> None:
        self.send = send
        self.has_begun = False
        self._is_quiet = True

    async def write(self, events: bytes) -> None:
        """Send events, each whole."""
        self._is_quiet = False
        if not self.has_begun:
            self.has_begun = True
            headers = list(self.headers)
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep_alive(self, seconds: float) -> None:
        """Send a comment, which says nothing, whenever nothing was sent for so long: proxies end a
        connection on which nothing comes."""
        while True:
            self._is_quiet = True
            await asyncio.sleep(seconds)
            if self._is_quiet:
                await self.write(KEEP_ALIVE)


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
            finished.choice_index, self._form.closing(), b"null", self._form.finish_reason(finished)
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
        yield _failure(error)
    else:
        yield DONE


def _failure(error: Exception) -> bytes:
    """The status is sent; an event is all that can still tell the client."""
    return _event(describe(error).json()) + DONE


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
