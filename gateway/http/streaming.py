"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.answer import Answer
from gateway.choice import Delta, Finished
from gateway.http.disconnect import unless_disconnected
from gateway.http.errors import describe
from gateway.http.formats.answer_format import AnswerFormat
from gateway.http.formats.envelope import Envelope, after_choices, choice_json
from gateway.http.formats.logprobs import NULL
from gateway.http.formats.usage import UsageMeter, served_by_json
from tandem.core.errors import Cancelled

# Twice that is a half of what proxies and load balancers commonly wait.
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx would hold chunks back.
    (b"x-accel-buffering", b"no"),
)
# Of a scope's state: the server's `ResponseBody`.
RESPONSE_BODY = "response_body"


class ResponseBody(Protocol):
    """The body of a response that has begun, written in calls that do not wait. `on_writable` is
    called when it can be written to again."""

    on_writable: Callable[[], None] | None

    @property
    def is_writable(self) -> bool:
        """Whether the client reads what is written, as far as is known."""
        ...

    def write(self, piece: bytes) -> None:
        """Write a piece that is not empty; nothing if the client has left."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Make one write of those in the block, that of the response's head as well."""
        ...


@dataclass(frozen=True, slots=True)
class UsageWanted:
    """Whether a stream has a last chunk with the usage, and whether each has the usage so far: then
    tokens make a chunk as they come, with whatever is shown of them."""

    at_end: bool = False
    continuous: bool = False


class StreamedAnswer(Response):
    """Streams an answer, and ends it when the client leaves.

    What fails before the first token has a status of its own, unless that is long in coming: then
    the stream begins without it.
    """

    def __init__(
        self,
        generate: Callable[[], Awaitable[Answer]],
        form: AnswerFormat,
        envelope: Callable[[Answer], Envelope],
        usage: UsageWanted,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        """Once there is an answer, never is nothing sent for longer than twice `keep_alive_s`."""
        super().__init__()
        self._generate = generate
        self._form = form
        self._envelope = envelope
        self._usage = usage
        self._keep_alive_s = keep_alive_s
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._respond(scope, receive, send))
        except Cancelled as error:
            # Nobody reads it, but it is counted.
            await self._fail(error, scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._generate()
        except Exception as error:
            await self._fail(error, scope, receive, send)
            return
        with answer:
            await self._stream(answer, scope, receive, send)

    async def _stream(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        body: ResponseBody = scope["state"][RESPONSE_BODY]
        try:
            while not await self._starts_in_time(answer):
                await self._begin(send)
                body.write(KEEP_ALIVE)
        except Exception as error:
            if not self._has_begun:
                await self._fail(error, scope, receive, send)
                return
            body.write(_failure(error))
        else:
            chunks = Chunks(answer, self._form, self._envelope(answer), self._usage)
            events = EventStream(answer, chunks, body)
            # What is there already goes with the response's head.
            with body.together():
                await self._begin(send)
                events.begin(self._keep_alive_s)
            await events.ended()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the error, if nothing has been answered yet."""
        if not self._has_begun:
            self._has_begun = True
            await describe(error).response()(scope, receive, send)

    async def _begin(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send(start_of_events())

    async def _starts_in_time(self, answer: Answer) -> bool:
        """Whether a worker begins before something has to be sent."""
        try:
            async with asyncio.timeout(self._keep_alive_s):
                await answer.started()
        except TimeoutError:
            return False
        return True


def start_of_events() -> Message:
    """ASGI's, of a stream that does not begin with an error."""
    return {"type": "http.response.start", "status": 200, "headers": list(HEADERS)}


class EventStream:
    """Writes an answer's events to a response that has begun, in the very calls that bring them: a
    task that is woken for each would cost as much as all the rest that is done for a token here.

    To a client that reads slowly nothing is written before it has read: what comes meanwhile waits,
    and then goes together, but not more at a time than others can wait for.
    """

    def __init__(self, answer: Answer, chunks: Chunks, body: ResponseBody) -> None:
        self._answer = answer
        self._chunks = chunks
        self._body = body
        self._ended = asyncio.Event()
        self._is_quiet = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_pass: asyncio.Handle | None = None

    def begin(self, keep_alive_s: float) -> None:
        """Write what there is, and from then on what comes, and comments whenever nothing was
        written for so long; until it has `ended`."""
        self._write(self._chunks.opening())
        self._keep_alive(keep_alive_s)
        self._body.on_writable = self._write_news
        self._answer.subscribe(self._write_news)

    async def ended(self) -> None:
        """Wait until all of it is written. Nothing is written if that is given up."""
        try:
            await self._ended.wait()
        finally:
            self._body.on_writable = None
            for handle in (self._timer, self._next_pass):
                if handle:
                    handle.cancel()

    def _write_news(self) -> None:
        """Write what there is to be told, if it can be written; of a long backlog a part in each
        turn of the event loop."""
        if self._next_pass is None and not self._ended.is_set() and self._body.is_writable:
            self._write_some()
            if self._answer.has_more:
                self._next_pass = asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._next_pass = None
        self._write_news()

    def _write_some(self) -> None:
        """Write what comes next. What fails is told, too."""
        pieces: list[bytes] = []
        try:
            pieces += map(self._chunks.of, self._answer.take())
            if self._is_over:
                pieces.append(self._chunks.ending())
        except Exception as error:
            self._answer.cancel()
            # This call is on behalf of whoever brought events, for any number of answers.
            with structlog.contextvars.bound_contextvars(request_id=self._answer.request_id):
                pieces.append(_failure(error))
        self._write(b"".join(pieces))
        if self._is_over:
            self._ended.set()

    @property
    def _is_over(self) -> bool:
        """Whether there is nothing more to be told; of an answer that failed there is that."""
        return not (self._answer.is_open or self._answer.has_more)

    def _write(self, events: bytes) -> None:
        if events:
            self._is_quiet = False
            self._body.write(events)

    def _keep_alive(self, seconds: float) -> None:
        """Proxies end a connection on which nothing comes: a comment says nothing."""
        if self._is_quiet and self._body.is_writable:
            self._body.write(KEEP_ALIVE)
        self._is_quiet = True
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._keep_alive, seconds)


class Chunks:
    """The events' bytes. What the chunks of an answer share is made once."""

    def __init__(
        self, answer: Answer, form: AnswerFormat, envelope: Envelope, usage: UsageWanted
    ) -> None:
        self._form = form
        self._wanted = usage
        self._usage = UsageMeter(answer)
        self._num_choices = answer.num_choices
        self._head = b"data: " + envelope.head
        # OpenAI's chunks have a usage each if any has: null, but in the last.
        self._tail = b',"usage":null}\n\n' if usage.at_end else b"}\n\n"

    def opening(self) -> bytes:
        content = self._form.opening()
        if content is None:
            return b""
        return b"".join(self._chunk(index, content) for index in range(self._num_choices))

    def of(self, event: Delta | Finished) -> bytes:
        """The chunks that an event makes, empty if none."""
        self._usage.add(event)
        if isinstance(event, Finished):
            return self._closing(event)
        contents = self._form.deltas(event)
        if not contents:
            if not (self._wanted.continuous and event.token_ids):
                return b""
            # The usage has grown, though the text of these tokens is held back.
            contents = (self._form.nothing(),)
        pieces = [self._form.scored(event.scored)] if event.scored else []
        logprobs = self._form.logprobs(pieces)
        first, *rest = contents
        chunks = [self._chunk(event.choice_index, first, logprobs)]
        for content in rest:
            chunks.append(self._chunk(event.choice_index, content))
        return b"".join(chunks)

    def ending(self) -> bytes:
        """What follows the last choice's end."""
        if not self._wanted.at_end:
            return DONE
        return self._head + after_choices(usage=self._usage.json()) + b"\n\n" + DONE

    def _closing(self, finished: Finished) -> bytes:
        return self._chunk(
            finished.choice_index,
            self._form.nothing(),
            reason=self._form.finish_reason(finished),
            more=b',"tandem":' + orjson.dumps(served_by_json(finished.served_by)),
        )

    def _chunk(
        self,
        index: int,
        content: bytes,
        logprobs: Iterable[bytes] = NULL,
        reason: str | None = None,
        more: bytes = b"",
    ) -> bytes:
        """`more` are fields of the chunk besides its choice, each with a comma before it."""
        before, behind = choice_json(index, content, reason)
        tail = self._tail
        if self._wanted.continuous:
            tail = b',"usage":' + orjson.dumps(self._usage.json()) + b"}\n\n"
        return b"".join((self._head, before, *logprobs, behind, b"]", more, tail))


def _failure(error: Exception) -> bytes:
    """The status is sent; an event is all that can still tell the client."""
    return _event(describe(error).json()) + DONE


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
