"""The streams of choices of which no generated token is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.tokens import Ended, ServedBy, Token, TokenStream
from tandem.core.sequence import FinishReason


class NoTokens:
    """The stream of a choice of which nothing is generated."""

    def subscribe(self, on_events: Callable[[], None]) -> None:
        on_events()

    has_more = False

    def take(self) -> tuple[Ended]:
        return (self.stop(),)

    def stop(self) -> Ended:
        return Ended(FinishReason.LENGTH, ServedBy("", ""))

    def cancel(self) -> None:
        pass


class PromptAlone:
    """The stream of a choice of which only the prompt's tokens are wanted: to be told of these, a
    worker generates another."""

    def __init__(self, stream: TokenStream, num_prompt_tokens: int) -> None:
        self._stream = stream
        self._num_prompt_tokens = num_prompt_tokens

    def subscribe(self, on_events: Callable[[], None]) -> None:
        self._stream.subscribe(on_events)

    @property
    def has_more(self) -> bool:
        return self._stream.has_more

    def take(self) -> list[Token | Ended]:
        return [
            replace(event, finish_reason=FinishReason.LENGTH) if isinstance(event, Ended) else event
            for event in self._stream.take()
            if isinstance(event, Ended) or event.position < self._num_prompt_tokens
        ]

    def stop(self) -> Ended:
        return self._stream.stop()

    def cancel(self) -> None:
        self._stream.cancel()
