"""Runs a workload against an endpoint."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

from tandem.bench.answer import Answer
from tandem.bench.summary import Run
from tandem.bench.workload import Prompt, Workload

# How long streams may go on after a workload's end: what is unfinished then is a problem.
GRACE_S = 20.0
LIMIT_S = 90.0
# The problem of an answer that was cut off there.
UNFINISHED = "unfinished when the time was over"

# Fills in the answer to its prompt.
Ask = Callable[[Answer], Awaitable[None]]


async def run_workload(ask: Ask, workload: Workload, seed: int) -> Run:
    """One run. Stops after `LIMIT_S`, whatever the workload says."""
    with uncollected():
        return await _Driver(ask, workload, seed).run()


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage is collected before, and not within: it would make requests late."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def answered(ask: Ask, answer: Answer) -> None:
    """Ask. An answer that is cut off then says so."""
    try:
        await ask(answer)
    except asyncio.CancelledError:
        answer.error = answer.error or UNFINISHED
        raise


async def warm_up(ask: Ask, workload: Workload, seed: int) -> Run:
    """A short round of the same lengths, and one long prompt where there are any."""
    long = next(workload.long_prompts(-1 - seed), None)
    if long is not None:
        await ask(Answer(long, perf_counter()))
    return await run_workload(ask, workload.warm_up(), -1 - seed)


class _Driver:
    def __init__(self, ask: Ask, workload: Workload, seed: int) -> None:
        self._ask = ask
        self._workload = workload
        self._prompts = workload.prompts(seed)
        self._long_prompts = workload.long_prompts(seed)
        self._num_left = workload.num_requests
        self._answers: list[Answer] = []
        self._long_answers: list[Answer] = []
        self._start_s = 0.0

    async def run(self) -> Run:
        workload = self._workload
        self._start_s = perf_counter()
        cpu_s = process_time()
        streams = [asyncio.create_task(self._stream()) for _ in range(workload.concurrency)]
        arrivals = asyncio.create_task(self._arrive())
        done, unfinished = await asyncio.wait(
            [*streams, arrivals],
            timeout=workload.seconds + GRACE_S if workload.seconds else LIMIT_S,
        )
        cpu_s = process_time() - cpu_s
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        for task in done:
            task.result()
        now_s = perf_counter()
        return Run(
            self._answers,
            self._long_answers,
            self._start_s,
            self._end_s(),
            load_cores=cpu_s / (now_s - self._start_s),
        )

    def _end_s(self) -> float:
        if self._workload.seconds:
            return self._start_s + self._workload.seconds
        return max(
            (each.arrivals[-1][0] for each in self._answers if each.arrivals),
            default=perf_counter(),
        )

    def _goes_on(self) -> bool:
        if self._workload.seconds:
            return perf_counter() < self._start_s + self._workload.seconds
        self._num_left -= 1
        return self._num_left >= 0

    async def _stream(self) -> None:
        while self._goes_on():
            await self._one(next(self._prompts), self._answers)

    async def _arrive(self) -> None:
        """Long prompts at their pace."""
        long = self._workload.long
        if long is None:
            return
        async with asyncio.TaskGroup() as tasks:
            for at_s in long.times_s(self._workload.seconds):
                await asyncio.sleep(self._start_s + at_s - perf_counter())
                tasks.create_task(self._one(next(self._long_prompts), self._long_answers))

    async def _one(self, prompt: Prompt, answers: list[Answer]) -> None:
        answer = Answer(prompt, perf_counter())
        answers.append(answer)
        await answered(self._ask, answer)
