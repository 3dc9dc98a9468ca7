"""What the two clients' streams have in common."""

from __future__ import annotations

from typing import Any

from tandem.client.builder import CompletionBuilder
from tandem.client.completion import Completion


class CallStream:
    """A `Generate` call under way. `call` is gRPC's, sync or async."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._builder = CompletionBuilder()
        self._cancelled = False

    def cancel(self) -> None:
        """End the generation; the iteration then just ends. Idempotent."""
        self._cancelled = True
        self._call.cancel()

    @property
    def completion(self) -> Completion:
        """The whole, once the iteration is over. Raises `Unavailable` if there is none."""
        return self._builder.build()
