"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import grpc

from tandem.client.completion import Completion, Delta
from tandem.client.connection import (
    CLOSED,
    Model,
    call_metadata,
    call_timeout,
    channel_tls,
    read_models,
    resolve_address,
    translated_errors,
)
from tandem.client.requests import (
    GenerateArguments,
    TokenizeArguments,
    build_detokenize_request,
    build_request,
    build_tokenize_request,
)
from tandem.client.stream import CallStream
from tandem.core.errors import Cancelled
from tandem.v1 import inference_pb2, inference_pb2_grpc
from tandem.wire.channels import open_channel


class AsyncClient:
    """`Client` for one event loop: `async with AsyncClient() as client: ...`.

    Is to be made and used in the same event loop. Only what was done to the task that awaits a call
    is `asyncio.CancelledError`: a call that `close` ends raises `Cancelled`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tenant: str | None = None,
        api_key: str | None = None,
        tls: bool | Path = False,
    ) -> None:
        self._metadata = call_metadata(tenant=tenant, api_key=api_key)
        self._channel = open_channel(resolve_address(address), channel_tls(tls))
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is running and disconnect. What is begun after it raises `Cancelled`."""
        await self._channel.close()

    async def generate(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's deadline, kept by the gateway
        **arguments: Unpack[GenerateArguments],
    ) -> Completion:
        """Generate to the end. `timeout` is in seconds: `DeadlineExceeded` after it."""
        async with self.stream(timeout=timeout, **arguments) as stream:
            async for _ in stream:
                pass
            return stream.completion

    def stream(
        self, *, timeout: float | None = None, **arguments: Unpack[GenerateArguments]
    ) -> AsyncCompletionStream:
        """Generate, piece by piece. What becomes of the call is raised by the iteration."""
        request = build_request(**arguments)
        with _translated_errors():
            return AsyncCompletionStream(
                self._stub.Generate(request, timeout=call_timeout(timeout), metadata=self._metadata)
            )

    async def tokenize(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        **arguments: Unpack[TokenizeArguments],
    ) -> list[int]:
        """A prompt's token ids."""
        request = build_tokenize_request(**arguments)
        with _translated_errors():
            return list(
                (
                    await self._stub.Tokenize(
                        request, timeout=call_timeout(timeout), metadata=self._metadata
                    )
                ).token_ids
            )

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> str:
        """The text of tokens, special ones included."""
        request = build_detokenize_request(token_ids, model)
        with _translated_errors():
            return (
                await self._stub.Detokenize(
                    request, timeout=call_timeout(timeout), metadata=self._metadata
                )
            ).text

    async def models(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> list[Model]:
        """What is served."""
        with _translated_errors():
            request = inference_pb2.ListModelsRequest()
            return read_models(
                await self._stub.ListModels(
                    request, timeout=call_timeout(timeout), metadata=self._metadata
                )
            )


class AsyncCompletionStream(CallStream):
    """An async iterator over `Delta`s. Leaving its `async with` block, or `cancel`, ends the
    generation; so does letting go of it."""

    def __del__(self) -> None:
        # The channel keeps a call that nobody reads any more, which then never ends.
        self._call.cancel()

    async def __aenter__(self) -> AsyncCompletionStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __aiter__(self) -> AsyncCompletionStream:
        return self

    async def __anext__(self) -> Delta:
        delta = await self._next()
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def _next(self) -> Delta | None:
        try:
            with _translated_errors():
                while (response := await self._call.read()) is not grpc.aio.EOF:
                    if (delta := self._builder.add(response)) is not None:
                        return delta
        except Cancelled:
            if not self._cancelled:
                raise
        return None


@contextmanager
def _translated_errors() -> Iterator[None]:
    """As `translated_errors`, and for use after `close`. That a call was cancelled, by `cancel` or
    `close`, gRPC raises as `asyncio.CancelledError`; but that is the word for the end of a task,
    and whoever waits for this one is to be told."""
    try:
        with translated_errors():
            yield
    except grpc.aio.UsageError:
        raise Cancelled(CLOSED) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise Cancelled("the call was cancelled") from None
