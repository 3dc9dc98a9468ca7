"""Requests whose every token is checked as it comes, by somebody who knows what must come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import Random
from time import monotonic
from typing import Any

from stack import Stack, expected_mock_tokens, upcoming

from gateway.generation_streams import GenerationStream
from gateway.tokens import Ended, ServedBy, Token
from tandem.core.errors import TandemError
from tandem.core.grammar import Grammar, GrammarKind

VOCAB = 256
HANG_S = 60.0
# Longer than any answer here, so that nothing but its length ends it.
SCHEMA = Grammar(
    GrammarKind.JSON_SCHEMA,
    '{"type": "object", "properties": {"text": {"type": "string", "minLength": 900}},'
    ' "required": ["text"], "additionalProperties": false}',
)
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0, "seed": 7},
    {"temperature": 0.8, "seed": 11, "grammar": SCHEMA},
)


@dataclass(eq=False)
class Watched:
    """One request, and what became of it: exactly one of `served_by`, `error` and `cancelled` in
    the end, else it `hangs`. `expected` says what must come, once asked: it takes its time."""

    expected: Callable[[], list[int]]
    max_tokens: int
    stream: GenerationStream
    times: list[float] = field(default_factory=lambda: [monotonic()])
    tokens: list[int] = field(default_factory=list)
    served_by: ServedBy | None = None
    error: TandemError | None = None
    cancelled: bool = False
    num_wrong: int = 0
    num_ends: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def hangs(self) -> bool:
        return not self.cancelled and self.num_ends == 0

    @property
    def is_whole(self) -> bool:
        """All tokens came, each once, in order, right, and one end behind them."""
        return (
            self.served_by is not None
            and self.num_wrong == 0
            and self.num_ends == 1
            and len(self.tokens) == self.max_tokens
        )

    async def follow(self) -> None:
        first = self.stream.generation.num_prompt_tokens
        try:
            while self.num_ends == 0:
                for event in await upcoming(self.stream):
                    self._take(event, first)
                self.times.append(monotonic())
                self.news.set()
        except TandemError as error:
            self.error = error
            self.num_ends += 1
            self.news.set()

    def _take(self, event: Token | Ended, first: int) -> None:
        if isinstance(event, Ended):
            self.served_by = event.served_by
            self.num_ends += 1
            return
        place = event.position - first
        self.num_wrong += place != len(self.tokens)
        self.tokens.append(event.token_id)

    def check(self) -> None:
        """Count what came and should not have."""
        pairs = zip(self.tokens, self.expected(), strict=False)
        self.num_wrong += sum(came != due for came, due in pairs)

    async def reaches(self, num_tokens: int) -> None:
        """Wait until so many tokens have come, or the end has."""
        while len(self.tokens) < num_tokens and self.num_ends == 0:
            self.news.clear()
            await self.news.wait()

    def cancel(self) -> None:
        if self.num_ends == 0:
            self.cancelled = True
            self.stream.cancel()

    def pause_after(self, when: float) -> float:
        """The longest time without a token that ended after `when`, and counts from there."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return max((end - max(start, when) for start, end in pairs if end > when), default=0.0)


class Load:
    """Seeded requests to a stack."""

    def __init__(self, stack: Stack, seed: str) -> None:
        self.stack = stack
        self.random = Random(seed)
        self._tasks: dict[asyncio.Task[None], Watched] = {}
        self._num_requests = 0

    def prompt(self, length: int) -> tuple[int, ...]:
        return tuple(self.random.randrange(VOCAB) for _ in range(length))

    def submit(
        self, length: int, max_tokens: int, deadline_s: float = inf, **params: Any
    ) -> Watched:
        """A request to the mock model."""
        prompt = self.prompt(length)
        expected = partial(expected_mock_tokens, prompt, max_tokens, **params)
        return self.watch(prompt, expected, max_tokens, deadline_s=deadline_s, **params)

    def watch(
        self,
        prompt: tuple[int, ...],
        expected: Callable[[], list[int]],
        max_tokens: int,
        **settings: Any,
    ) -> Watched:
        self._num_requests += 1
        stream = self.stack.submit(f"r{self._num_requests}", prompt, max_tokens, **settings)
        watched = Watched(expected, max_tokens, stream)
        self._tasks[asyncio.create_task(watched.follow())] = watched
        return watched

    def wave(self, count: int, length: int, max_tokens: int) -> list[Watched]:
        """Requests of all kinds; one in eight is cancelled when some of it has come."""
        watched = [
            self.submit(length, max_tokens, **KINDS[number % len(KINDS)]) for number in range(count)
        ]
        for each in watched[7::8]:
            asyncio.get_running_loop().call_later(self.random.random(), each.cancel)
        return watched

    async def settle(self, watched: Iterable[Watched]) -> None:
        """Wait until these have ended, and check them; what has not after `HANG_S` hangs."""
        wanted = set(watched)
        tasks = [task for task, each in self._tasks.items() if each in wanted]
        if tasks:
            await asyncio.wait(tasks, timeout=HANG_S)
        settled: list[Watched] = []
        for task in tasks:
            task.cancel()
            settled.append(self._tasks.pop(task))
        await asyncio.gather(*tasks, return_exceptions=True)
        # In a thread: for as long as this loop stands still, so does the gateway.
        for each in settled:
            await asyncio.to_thread(each.check)
