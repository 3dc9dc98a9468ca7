"""Answers as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from gateway.answer import Answer, Delta, Finished
from gateway.http.errors import describe
from gateway.http.formats import AnswerFormat, Envelope, Json, served_by, usage


class StreamedAnswer(EventSourceResponse):
    """Streams an answer that has started, and ends it when the client leaves."""

    def __init__(
        self, answer: Answer, form: AnswerFormat, envelope: Envelope, include_usage: bool
    ) -> None:
        chunks = _Chunks(answer, form, envelope, include_usage)
        super().__init__(_events(answer, chunks), sep="\n")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Here, since an iterator that was never begun cleans nothing up.
        with self._answer:
            await super().__call__(scope, receive, send)


class _Chunks:
    """The data of each event."""

    def __init__(
        self, answer: Answer, form: AnswerFormat, envelope: Envelope, include_usage: bool
    ) -> None:
        self._answer = answer
        self._form = form
        self._envelope = envelope
        self._include_usage = include_usage
        # OpenAI's chunks have a usage each if any has: null, but in the last.
        self._no_usage: Json = {"usage": None} if include_usage else {}

    def opening(self) -> list[bytes]:
        opening = self._form.opening()
        return [] if opening is None else [self._chunk(opening)]

    def of(self, event: Delta | Finished) -> list[bytes]:
        match event:
            case Delta(text=""):
                return []
            case Delta(text=text):
                return [self._chunk(self._form.delta(text))]
            case Finished():
                return self._closing(event)

    def _closing(self, finished: Finished) -> list[bytes]:
        chunks = [
            self._chunk(self._form.closing(finished.finish_reason), tandem=served_by(finished))
        ]
        if self._include_usage:
            chunks.append(self._envelope.json([], usage=usage(self._answer, finished)))
        return chunks

    def _chunk(self, choice: Json, **more: object) -> bytes:
        return self._envelope.json([choice], **self._no_usage, **more)


async def _events(answer: Answer, chunks: _Chunks) -> AsyncIterator[bytes]:
    try:
        for chunk in chunks.opening():
            yield _event(chunk)
        async for event in answer:
            for chunk in chunks.of(event):
                yield _event(chunk)
    except Exception as error:
        # The status is sent; an event is all that can still tell the client.
        yield _event(describe(error).json())
    yield _event(b"[DONE]")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
