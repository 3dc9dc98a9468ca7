"""The client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

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
from tandem.wire.channels import open_sync_channel


class Client:
    """A connection to a gateway: `with Client() as client: client.generate(prompt="Hi")`.

    `address` is host:port; the environment's `TANDEM_ADDRESS`, or this machine's gateway, if None.
    `tenant` is who is served, of those that the gateway knows. `api_key` proves it, where the
    gateway asks for keys; the environment's `TANDEM_API_KEY` if None. `tls` is for an address whose
    TLS ends before the gateway: True trusts the system's authorities, a path those of a PEM file.
    With it an address elsewhere is reached by the environment's proxy (`https_proxy`), if there is
    one; without it none is.
    May be used by several threads at once. All methods raise the errors of `tandem.core.errors`.
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
        self._is_closed = False
        self._channel = open_sync_channel(resolve_address(address), channel_tls(tls))
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is running and disconnect. What is begun after it raises `Cancelled`."""
        self._is_closed = True
        self._channel.close()

    def generate(
        self, *, timeout: float | None = None, **arguments: Unpack[GenerateArguments]
    ) -> Completion:
        """Generate to the end. `timeout` is in seconds: `DeadlineExceeded` after it."""
        with self.stream(timeout=timeout, **arguments) as stream:
            for _ in stream:
                pass
            return stream.completion

    def stream(
        self, *, timeout: float | None = None, **arguments: Unpack[GenerateArguments]
    ) -> CompletionStream:
        """Generate, piece by piece. What becomes of the call is raised by the iteration."""
        request = build_request(**arguments)
        with self._calling():
            return CompletionStream(
                self._stub.Generate(request, timeout=call_timeout(timeout), metadata=self._metadata)
            )

    def tokenize(
        self, *, timeout: float | None = None, **arguments: Unpack[TokenizeArguments]
    ) -> list[int]:
        """A prompt's token ids."""
        request = build_tokenize_request(**arguments)
        with self._calling():
            return list(
                self._stub.Tokenize(
                    request, timeout=call_timeout(timeout), metadata=self._metadata
                ).token_ids
            )

    def detokenize(
        self, token_ids: Sequence[int], *, model: str = "", timeout: float | None = None
    ) -> str:
        """The text of tokens, special ones included."""
        request = build_detokenize_request(token_ids, model)
        with self._calling():
            return self._stub.Detokenize(
                request, timeout=call_timeout(timeout), metadata=self._metadata
            ).text

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """What is served."""
        with self._calling():
            request = inference_pb2.ListModelsRequest()
            return read_models(
                self._stub.ListModels(
                    request, timeout=call_timeout(timeout), metadata=self._metadata
                )
            )

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """As `translated_errors`, for calls that begin within."""
        with translated_errors():
            try:
                yield
            except ValueError:
                # gRPC's word for a closed channel, among others.
                if self._is_closed:
                    raise Cancelled(CLOSED) from None
                raise


class CompletionStream(CallStream):
    """An iterator over `Delta`s. Leaving its `with` block, or `cancel`, ends the generation;
    so does letting go of it."""

    def __enter__(self) -> CompletionStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __iter__(self) -> CompletionStream:
        return self

    def __next__(self) -> Delta:
        delta = self._next()
        if delta is None:
            raise StopIteration
        return delta

    def _next(self) -> Delta | None:
        try:
            with translated_errors():
                for response in self._call:
                    if (delta := self._builder.add(response)) is not None:
                        return delta
        except Cancelled:
            if not self._cancelled:
                raise
        return None
