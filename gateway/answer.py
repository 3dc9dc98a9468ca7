"""What a client is told of its request: the events of all its choices, as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from gateway.choice import Choice, Delta, Finished
from gateway.tokens import Ended, Token

Event = tuple[Choice, Token | Ended | Exception]


class Answer:
    """The events of a request: of each choice `Delta`s, then one `Finished`.

    To be used as a context manager: however the block is left, the workers are then done with the
    request. Iterating raises the `TandemError` that ended the first choice to fail, once, which
    ends the others as well; it ends quietly after `cancel`.
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
        self._pending: deque[Delta | Finished] = deque()
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

    async def __anext__(self) -> Delta | Finished:
        while self._open and not self._pending:
            await self._pull()
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.popleft()

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
        """One event of any choice."""
        try:
            choice, event = await self._next()
            if choice.ended:
                return
            if isinstance(event, Exception):
                raise event
        except BaseException:
            self.cancel()
            raise
        self._pending.extend(choice.take(event))
        if choice.ended:
            self._end(choice)

    async def _next(self) -> Event:
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
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks = {choice: asyncio.create_task(self._read(choice)) for choice in choices}

    async def next(self) -> Event:
        """The next event: an exception is what ended its choice."""
        return await self._events.get()

    def drop(self, choice: Choice) -> None:
        """Take no more from it."""
        self._tasks[choice].cancel()

    def close(self) -> None:
        """Take no more from any."""
        for task in self._tasks.values():
            task.cancel()

    async def _read(self, choice: Choice) -> None:
        event: Token | Ended | None = None
        while not (choice.ended or isinstance(event, Ended)):
            try:
                event = await choice.tokens.next()
            except Exception as error:
                # Whoever iterates is to get it, not this task.
                self._events.put_nowait((choice, error))
                return
            self._events.put_nowait((choice, event))
