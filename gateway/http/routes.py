"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import secrets
import time

from fastapi import APIRouter, Request, Response

from gateway.answer import Answer, Delta, Finished
from gateway.frontend import Frontend
from gateway.http.body import JsonRoute
from gateway.http.disconnect import unless_disconnected
from gateway.http.errors import describe
from gateway.http.formats import (
    AnswerFormat,
    ChatFormat,
    CompletionFormat,
    Envelope,
    served_by,
    usage,
)
from gateway.http.schemas import ChatBody, CompletionBody
from gateway.http.streaming import StreamedAnswer
from gateway.request import GenerationRequest


def generation_router(frontend: Frontend) -> APIRouter:
    """The endpoints that generate."""
    router = APIRouter(route_class=JsonRoute)
    chat, completion = ChatFormat(), CompletionFormat()

    @router.post("/v1/chat/completions", response_model=None)
    async def create_chat_completion(request: Request, body: ChatBody) -> Response:
        return await _respond(frontend, request, body, chat)

    @router.post("/v1/completions", response_model=None)
    async def create_completion(request: Request, body: CompletionBody) -> Response:
        return await _respond(frontend, request, body, completion)

    return router


async def _respond(
    frontend: Frontend, request: Request, body: ChatBody | CompletionBody, form: AnswerFormat
) -> Response:
    try:
        return await _generate(frontend, request, body, form)
    except Exception as error:
        # Here and not in the framework's outermost layer, which no longer knows the request's name.
        return describe(error).response()


async def _generate(
    frontend: Frontend, request: Request, body: ChatBody | CompletionBody, form: AnswerFormat
) -> Response:
    wanted = body.request()
    if not body.stream:
        return await unless_disconnected(request, _whole(frontend, wanted, form))
    answer = await unless_disconnected(request, _started(frontend, wanted))
    envelope = _envelope(answer, form.id_prefix, form.chunk_object_name)
    return StreamedAnswer(answer, form, envelope, body.include_usage)


async def _started(frontend: Frontend, wanted: GenerationRequest) -> Answer:
    """An answer with its first token: what fails before that still gets a status of its own."""
    answer = await frontend.generate(wanted)
    await answer.started()
    return answer


async def _whole(frontend: Frontend, wanted: GenerationRequest, form: AnswerFormat) -> Response:
    with await frontend.generate(wanted) as answer:
        text, finished = await _collect(answer)
    envelope = _envelope(answer, form.id_prefix, form.object_name)
    content = envelope.json(
        [form.whole(text, finished.finish_reason)],
        usage=usage(answer, finished),
        tandem=served_by(finished),
    )
    return Response(content, media_type="application/json")


async def _collect(answer: Answer) -> tuple[str, Finished]:
    pieces: list[str] = []
    async for event in answer:
        match event:
            case Delta(text=text):
                pieces.append(text)
            case Finished():
                return "".join(pieces), event
    raise AssertionError("an answer ends with Finished or an error")


def _envelope(answer: Answer, id_prefix: str, object_name: str) -> Envelope:
    answer_id = id_prefix + secrets.token_hex(16)
    return Envelope(answer_id, object_name, int(time.time()), answer.model)
