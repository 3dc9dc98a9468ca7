"""`InferenceService`: the gateway's gRPC side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from gateway.answer import Answer, Delta, Finished
from gateway.frontend import Frontend
from gateway.limits import DEFAULT_MODEL, check_counts, max_total_tokens
from gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from gateway.tokens import ServedBy, TokenService
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2, inference_pb2_grpc, sampling_pb2
from tandem.wire.status import abort

Timeline = Callable[[int], inference_pb2.GetTimelineResponse]
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generation over `frontend`. `timeline` gives what happened in the last so many milliseconds
    (all that is kept for 0)."""

    def __init__(self, frontend: Frontend, service: TokenService, timeline: Timeline) -> None:
        self._frontend = frontend
        self._service = service
        self._timeline = timeline

    # A coroutine that writes, not a generator: when the client leaves, gRPC cancels it wherever it
    # is, whereas a generator that is not being awaited just then lives until it is collected.
    async def Generate(  # type: ignore[override]
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> None:
        """Stream a generation. Ends it when the call is cancelled or its deadline passes."""
        try:
            with await self._frontend.generate(request_from_wire(request)) as answer:
                await context.write(_started(answer))
                async for event in answer:
                    await context.write(_event(event))
        except Exception as error:
            await abort(context, error)

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        """What is served at present."""
        model = self._service.model
        if model is None:
            return inference_pb2.ListModelsResponse()
        served = inference_pb2.ServedModel(id=model.name, max_model_len=max_total_tokens(model))
        return inference_pb2.ListModelsResponse(models=[served])

    async def GetTimeline(
        self, request: inference_pb2.GetTimelineRequest, context: Context
    ) -> inference_pb2.GetTimelineResponse:
        """What the workers did of late."""
        try:
            return self._timeline(request.window_ms)
        except Exception as error:
            await abort(context, error)


def request_from_wire(message: inference_pb2.GenerateRequest) -> GenerationRequest:
    """In the protocol-neutral form. Raises `InvalidRequest`."""
    check_counts(
        num_messages=len(message.chat.messages),
        num_prompt_tokens=len(message.token_ids.ids),
        num_stops=len(message.stop),
        num_stop_token_ids=len(message.stop_token_ids),
    )
    if message.HasField("num_choices") and message.num_choices != 1:
        raise InvalidRequest("more choices than 1 are not supported yet", param="num_choices")
    return GenerationRequest(
        prompt=_prompt_from_wire(message),
        model=message.model or DEFAULT_MODEL,
        request_id=message.request_id,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
    )


def _prompt_from_wire(message: inference_pb2.GenerateRequest) -> Prompt:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "token_ids":
            return TokenPrompt(tuple(message.token_ids.ids))
        case "chat":
            return ChatPrompt(tuple(ChatMessage(m.role, m.content) for m in message.chat.messages))
    raise InvalidRequest("a prompt is needed: text, token_ids or chat", param="prompt")


def _started(answer: Answer) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        started=inference_pb2.GenerationStarted(
            request_id=answer.request_id,
            model=answer.model,
            num_prompt_tokens=answer.num_prompt_tokens,
        )
    )


def _event(event: Delta | Finished) -> inference_pb2.GenerateResponse:
    match event:
        case Delta(token_ids, text):
            delta = inference_pb2.TokenDelta(token_ids=token_ids, text=text)
            return inference_pb2.GenerateResponse(delta=delta)
        case Finished(reason, num_tokens, served_by):
            finished = inference_pb2.GenerationFinished(
                finish_reason=sampling_pb2.FinishReason.ValueType(reason),
                num_tokens=num_tokens,
                served_by=_served_by(served_by),
            )
            return inference_pb2.GenerateResponse(finished=finished)


def _served_by(served_by: ServedBy) -> inference_pb2.ServedBy:
    return inference_pb2.ServedBy(
        prefill_worker=served_by.prefill_worker,
        decode_worker=served_by.decode_worker,
        kv_bytes=served_by.kv_bytes,
        num_cached_tokens=served_by.num_cached_tokens,
    )
