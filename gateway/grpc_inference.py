"""`InferenceService`: the gateway's gRPC side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc

from gateway.frontend import Frontend
from gateway.grpc_access import text_metadata
from gateway.grpc_request import request_from_wire, token_ids_of, tokenize_prompt, tokenize_tools
from gateway.grpc_response import event_to_wire, started_to_wire
from gateway.limits import DEFAULT_MODEL, check_size, max_total_tokens
from gateway.tokens import TokenService
from tandem.core.errors import Cancelled
from tandem.v1 import inference_pb2, inference_pb2_grpc
from tandem.wire.status import abort

READ_TIMEOUT_S = 60.0

Timeline = Callable[[int], Awaitable[inference_pb2.GetTimelineResponse]]
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generation over `frontend`. `timeline` gives what happened in the last so many milliseconds
    (all that is kept for 0)."""

    def __init__(
        self,
        frontend: Frontend,
        service: TokenService,
        timeline: Timeline,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """Who reads nothing of a stream for `read_timeout_s` is cut off."""
        self._frontend = frontend
        self._token_bytes = frontend.tokenizer.token_bytes
        self._service = service
        self._timeline = timeline
        self._read_timeout_s = read_timeout_s

    # A coroutine that writes, not a generator: when the client leaves, gRPC cancels it wherever it
    # is, whereas a generator that is not being awaited just then lives until it is collected.
    async def Generate(  # type: ignore[override]
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> None:
        """Stream a generation. Ends it when the call is cancelled or its deadline passes."""
        try:
            metadata = text_metadata(context.invocation_metadata())
            wanted = replace(
                request_from_wire(request),
                tenant=self._frontend.access.tenant_of(metadata),
                timeout_s=context.time_remaining(),
                traceparent=metadata.get("traceparent", ""),
                tracestate=metadata.get("tracestate", ""),
            )
            with await self._frontend.generate(wanted) as answer:
                await self._write(context, [started_to_wire(answer)])
                async for events in answer:
                    await self._write(
                        context, [event_to_wire(each, self._token_bytes) for each in events]
                    )
        except grpc.aio.InternalError:
            raise  # The client has left: see `grpc_calls.within`.
        except Exception as error:
            await abort(context, error)

    async def _write(
        self, context: Context, responses: Sequence[inference_pb2.GenerateResponse]
    ) -> None:
        """Write what has come together. While the client does not read what was written before,
        what comes waits in its stream. Raises `Cancelled` if one message waits too long for it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._read_timeout_s) as limit:
                for index, response in enumerate(responses):
                    if index:
                        limit.reschedule(loop.time() + self._read_timeout_s)
                    await context.write(response)
        except TimeoutError:
            raise Cancelled("the client reads nothing") from None

    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        """A prompt's tokens."""
        try:
            return await self._frontend.tokenize(
                tokenize_prompt(request),
                lambda token_ids: inference_pb2.TokenizeResponse(token_ids=token_ids),
                tenant=self._tenant_of(context),
                model=request.model or DEFAULT_MODEL,
                tools=tokenize_tools(request),
                add_special_tokens=_or_true(request, "add_special_tokens"),
                add_generation_prompt=_or_true(request, "add_generation_prompt"),
            )
        except Exception as error:
            await abort(context, error)

    async def Detokenize(
        self, request: inference_pb2.DetokenizeRequest, context: Context
    ) -> inference_pb2.DetokenizeResponse:
        """The text of tokens."""
        try:
            check_size(num_tokens=len(request.token_ids))
            return await self._frontend.detokenize(
                token_ids_of(request.token_ids),
                lambda text: inference_pb2.DetokenizeResponse(text=text),
                tenant=self._tenant_of(context),
                model=request.model or DEFAULT_MODEL,
            )
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
            return await self._timeline(request.window_ms)
        except Exception as error:
            await abort(context, error)

    def _tenant_of(self, context: Context) -> str:
        return self._frontend.access.tenant_of(text_metadata(context.invocation_metadata()))


def _or_true(request: inference_pb2.TokenizeRequest, name: str) -> bool:
    """A flag that is on if it is absent."""
    return not request.HasField(name) or bool(getattr(request, name))  # type: ignore[arg-type]
