"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request, Response

from gateway.answer import Answer
from gateway.frontend import Frontend
from gateway.http.body import BodyRoute
from gateway.http.disconnect import unless_disconnected
from gateway.http.documented_errors import BODY_ERRORS, documented, documented_errors
from gateway.http.errors import describe
from gateway.http.formats.answer_format import AnswerFormat
from gateway.http.formats.chat import ChatFormat
from gateway.http.formats.completion import CompletionFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.schemas.answers import ChatCompletion, Completion
from gateway.http.schemas.chat import ChatBody
from gateway.http.schemas.completion import CompletionBody
from gateway.http.streaming import StreamedAnswer, UsageWanted
from gateway.http.whole import whole_answer
from gateway.request import GenerationRequest


def generation_router(frontend: Frontend) -> APIRouter:
    """The endpoints that generate."""
    router = APIRouter(route_class=BodyRoute, responses=documented_errors(*BODY_ERRORS, 504))
    token_bytes = frontend.tokenizer.token_bytes
    chat = ChatFormat(token_bytes)
    # As OpenAI has it: where the call was no choice of the model's, its end is an end.
    named_call = ChatFormat(token_bytes, calls_end_with="stop")
    completion = CompletionFormat(token_bytes)

    @router.post("/v1/chat/completions", response_model=None, responses=documented(ChatCompletion))
    async def create_chat_completion(request: Request, body: ChatBody) -> Response:
        form = named_call if body.names_its_call else chat
        return await _respond(frontend, request, body, form)

    @router.post("/v1/completions", response_model=None, responses=documented(Completion))
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
    wanted = replace(
        body.request(),
        trace_id=request.state.request_id,
        tenant=request.state.tenant,
        traceparent=request.headers.get("traceparent", ""),
        tracestate=request.headers.get("tracestate", ""),
    )
    if not body.stream:
        return await unless_disconnected(request.receive, _whole(frontend, wanted, form))
    envelope = partial(_envelope, id_prefix=form.id_prefix, object_name=form.chunk_object_name)
    usage = UsageWanted(body.include_usage, body.continuous_usage)
    return StreamedAnswer(partial(frontend.generate, wanted), form, envelope, usage)


async def _whole(frontend: Frontend, wanted: GenerationRequest, form: AnswerFormat) -> Response:
    with await frontend.generate(wanted) as answer:
        envelope = _envelope(answer, form.id_prefix, form.object_name)
        return await whole_answer(answer, form, envelope)


def _envelope(answer: Answer, id_prefix: str, object_name: str) -> Envelope:
    answer_id = id_prefix + answer.request_id
    return Envelope(answer_id, object_name, int(time.time()), answer.model)
