"""What a client is told of its request: the events of all its choices, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType

from gateway.choice import Choice, Delta, Finished
from gateway.tokens import Ended, Token

Events = tuple[Choice, Sequence[Token | Ended] | Exception]


class Answer:
    """The events of a request: of each choice `Delta`s, then one `Finished`.

    To be used as a context manager: however the block is left, the workers are then done with the
    request. Iterating gives the events since the last turn, at least one; it raises the
    `TandemError` that ended the first choice to fail, once, which ends the others as well; it ends
    quietly after `cancel`.
    """

    def __init__(
        self,
        *,
        request_id: str,
        model: str,
        num_prompt_tokens: int,
        choices: Sequence[Choice],
        on_close: Callable[[], None],
        choices_per_prompt: int = 1,
    ) -> None:
        """`num_prompt_tokens` are those of all prompts, each counted once."""
        self.request_id = request_id
        self.model = model
        self.num_prompt_tokens = num_prompt_tokens
        self.choices_per_prompt = choices_per_prompt
        self._choices = choices
        self._on_close = on_close
        self._pending: list[Delta | Finished] = []
        self._merge: Merge | None = None
        self._open = True
        for choice in choices:
            self._pending.extend(choice.opening())

    @property
    def num_choices(self) -> int:
        """How many `Finished` there will be."""
        return len(self._choices)

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

    async def __anext__(self) -> list[Delta | Finished]:
        while self._open and not self._pending:
            await self._pull()
        if not self._pending:
            raise StopAsyncIteration
        pending, self._pending = self._pending, []
        return pending

    async def started(self) -> None:
        """Wait until a worker has begun. Raises what ended the request before that, while the
        client can still be given a proper status."""
        if self._open:
            await self._pull()

    def cancel(self) -> None:
        """End the request on all workers, if it has not ended; idempotent."""
        self._pending.clear()
        if self._open:
            for choice in self._choices:
                choice.cancel()
            self._close()

    async def _pull(self) -> None:
        """The next events of any choice."""
        try:
            choice, events = await self._next()
            if choice.ended:
                return
            if isinstance(events, Exception):
                raise events
        except BaseException:
            self.cancel()
            raise
        self._pending += choice.take(events)
        if choice.ended:
            self._end(choice)

    async def _next(self) -> Events:
        if len(self._choices) == 1:
            return self._choices[0], await self._choices[0].tokens.next()
        if self._merge is None:
            self._merge = Merge(self._choices)
        return await self._merge.next()

    def _end(self, choice: Choice) -> None:
        if self._merge:
            self._merge.drop(choice)
        if all(each.ended for each in self._choices):
            self._close()

    def _close(self) -> None:
        self._open = False
        if self._merge:
            self._merge.close()
        self._on_close()


class Merge:
    """The events of several choices in the order in which they come. A task waits for each."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._events: asyncio.Queue[Events] = asyncio.Queue()
        self._tasks = {choice: asyncio.create_task(self._read(choice)) for choice in choices}

    async def next(self) -> Events:
        """The next events of one choice; an exception is what ended it."""
        return await self._events.get()

    def drop(self, choice: Choice) -> None:
        """Take no more from it."""
        self._tasks[choice].cancel()

    def close(self) -> None:
        """Take no more from any."""
        for task in self._tasks.values():
            task.cancel()

    async def _read(self, choice: Choice) -> None:
        is_last = False
        while not (choice.ended or is_last):
            try:
                events = await choice.tokens.next()
            except Exception as error:
                # Whoever iterates is to get it, not this task.
                self._events.put_nowait((choice, error))
                return
            self._events.put_nowait((choice, events))
            is_last = isinstance(events[-1], Ended)
