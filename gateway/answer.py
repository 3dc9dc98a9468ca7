"""What a client is told of its generation, event by event."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from gateway.text import TokenText
from gateway.tokens import Ended, ServedBy, Token, TokenStream
from tandem.core.sequence import FinishReason


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens and new text. The text of a token may be held back until it is certain."""

    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end. `num_tokens` were generated, up to the one that completed a stop string."""

    finish_reason: FinishReason
    num_tokens: int
    served_by: ServedBy


class Answer:
    """The events of one choice: `Delta`s, then one `Finished`.

    To be used as a context manager: however the block is left, the workers are then done with the
    request. Iterating raises the `TandemError` that ended the generation, once, and ends quietly
    after `cancel`.
    """

    def __init__(
        self,
        *,
        request_id: str,
        model: str,
        num_prompt_tokens: int,
        tokens: TokenStream,
        text: TokenText,
        on_close: Callable[[], None],
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.num_prompt_tokens = num_prompt_tokens
        self._tokens = tokens
        self._text = text
        self._on_close = on_close
        self._num_tokens = 0
        self._pending: deque[Delta | Finished] = deque()
        self._open = True

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Delta | Finished:
        await self.started()
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.popleft()

    async def started(self) -> None:
        """Wait until an event is there. Raises what ended the generation before it, while the
        client can still be given a proper status."""
        if self._open and not self._pending:
            await self._pull()

    def cancel(self) -> None:
        """End the generation on all workers, if it has not ended; idempotent."""
        self._pending.clear()
        if self._open:
            self._tokens.cancel()
            self._close()

    async def _pull(self) -> None:
        try:
            event = await self._tokens.next()
        except BaseException:
            self.cancel()
            raise
        match event:
            case Token():
                self._on_token(event)
            case Ended():
                self._on_ended(event)

    def _on_token(self, token: Token) -> None:
        self._num_tokens += 1
        self._pending.append(Delta((token.token_id,), self._text.push(token.token_id)))
        if self._text.stopped:
            ended = self._tokens.stop()
            self._finish(ended.finish_reason, ended.served_by)

    def _on_ended(self, ended: Ended) -> None:
        text = self._text.flush()
        if text:
            self._pending.append(Delta((), text))
        reason = FinishReason.STOP if self._text.stopped else ended.finish_reason
        self._finish(reason, ended.served_by)

    def _finish(self, reason: FinishReason, served_by: ServedBy) -> None:
        self._pending.append(Finished(reason, self._num_tokens, served_by))
        self._close()

    def _close(self) -> None:
        self._open = False
        self._on_close()
