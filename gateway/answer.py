"""What a client is told of its request: the events of all its choices, as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from gateway.choice import Choice, Delta, Finished
from gateway.tokens import MAX_TAKEN, size_of


class Answer:
    """The events of a request: of each choice `Delta`s, then one `Finished`.

    To be used as a context manager: however the block is left, the workers are then done with the
    request. Iterating gives the next events, at least one; `take` does so for those
    who cannot wait, and have themselves called instead (`subscribe`). Either raises the
    `TandemError` that ended the first choice to fail, once, which ends the others as well; after
    `cancel` it ends quietly.
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
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`num_prompt_tokens` are those of all prompts, each counted once. Choices are cancelled
        `together`."""
        self.request_id = request_id
        self.model = model
        self.num_prompt_tokens = num_prompt_tokens
        self.choices_per_prompt = choices_per_prompt
        self.is_open = True
        self._choices = choices
        self._on_close = on_close
        self._together = together
        self._pending: list[Delta | Finished] = []
        self._failure: Exception | None = None
        # Choices with something to take, in the order in which it came.
        self._ready: deque[Choice] = deque()
        self._arrived = asyncio.Event()
        self._on_events: Callable[[], object] = self._arrived.set
        for choice in choices:
            self._pending.extend(choice.opening())
            choice.tokens.subscribe(partial(self._has_more, choice))

    @property
    def has_more(self) -> bool:
        """Whether `take` is to be called again, for what it left or what has come meanwhile."""
        return bool(self._ready) or self._failure is not None

    @property
    def num_choices(self) -> int:
        """How many `Finished` there will be."""
        return len(self._choices)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> list[Delta | Finished]:
        while not (events := self.take()):
            if not self.is_open:
                raise StopAsyncIteration
            await self._arrival()
        return events

    async def started(self) -> None:
        """Wait until a worker has begun. Raises what ended the request before that, while the
        client can still be given a proper status. If it is cancelled, nothing is lost."""
        while self.is_open and not self._ready:
            await self._arrival()
        opening, self._pending = self._pending, []
        self._pending = [*opening, *self.take()]

    def subscribe(self, on_events: Callable[[], object]) -> None:
        """Have `on_events` called, and nobody who iterates, when there is something to take: now,
        and from then on whenever there is more."""
        self._on_events = on_events
        on_events()

    def take(self) -> list[Delta | Finished]:
        """The next events; none if all was taken, or about `MAX_TAKEN` by their size if it
        `has_more`. Raises the error that ended the answer, once what came before it was taken."""
        events, self._pending = self._pending, []
        size = 0
        while self._ready and size < MAX_TAKEN and self._failure is None:
            size += self._take_of(self._ready.popleft(), events)
        if self._failure is not None and not events:
            error, self._failure = self._failure, None
            try:
                raise error
            finally:
                # Which has this frame: with it the error would keep itself, and this answer.
                del error
        return events

    def cancel(self) -> None:
        """End the request on all workers, if it has not ended; idempotent."""
        self._pending.clear()
        self._ready.clear()
        if self.is_open:
            with self._together():
                for choice in self._choices:
                    choice.cancel()
            self._close_if_ended()

    def _has_more(self, choice: Choice) -> None:
        # Before its prompt is told nothing of it is, and it has not begun.
        if not choice.awaits_prompt:
            self._ready.append(choice)
            self._on_events()

    async def _arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _take_of(self, choice: Choice, events: list[Delta | Finished]) -> int:
        """Add what comes next of a choice, and tell how much of `MAX_TAKEN` it is."""
        if choice.ended:
            return 0
        if choice.awaits_prompt:
            told = choice.take_prompt()
            if told:
                # There may be more of it, and of its stream.
                self._ready.append(choice)
            events += told
            return MAX_TAKEN if told else 0
        try:
            received = choice.tokens.take()
            if received:
                events += choice.take(received)
        except Exception as error:
            self.cancel()
            self._failure = error
            return 0
        self._ready.extend(each for each in choice.followers if each.awaits_prompt)
        if choice.ended:
            self._close_if_ended()
        elif choice.tokens.has_more:
            # Only when all is taken it tells of more. It gave as much as is to be taken at a time.
            self._ready.append(choice)
            return MAX_TAKEN
        return sum(map(size_of, received))

    def _close_if_ended(self) -> None:
        if self.is_open and all(choice.ended for choice in self._choices):
            self.is_open = False
            # Whoever was called takes what is left unasked, and has this answer.
            self._on_events = self._arrived.set
            self._on_close()
