"""Keeps an eye on all that is asked, from outside the loop that asks it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import UNFINISHED, Ask


@dataclass(slots=True)
class Asked:
    """One request: when it was due, when the loop began with it, and when it was over, if it is."""

    answer: Answer
    due_s: float
    began_s: float
    ended_s: float | None = None


class Watch:
    """An `Ask` around another: notes each request, and ends it after `timeout_s`."""

    def __init__(self, ask: Ask, timeout_s: float) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self.asked: list[Asked] = []
        self.num_ended = 0
        self.num_failed = 0

    @property
    def num_running(self) -> int:
        return len(self.asked) - self.num_ended

    async def ask(self, answer: Answer) -> None:
        asked = Asked(answer, answer.sent_s, perf_counter())
        self.asked.append(asked)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ask(answer)
        except TimeoutError:
            answer.error = answer.error or f"not over after {self._timeout_s:g} s"
        except asyncio.CancelledError:
            answer.error = answer.error or UNFINISHED
            raise
        finally:
            asked.ended_s = perf_counter()
            self.num_ended += 1
            self.num_failed += bool(answer.problem()) and answer.error != UNFINISHED
