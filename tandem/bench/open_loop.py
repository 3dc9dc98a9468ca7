"""An open loop: requests come when they come, whether or not the server keeps up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter, process_time

from tandem.bench.answer import Answer
from tandem.bench.arrivals import poisson_arrivals
from tandem.bench.closed_loop import Ask
from tandem.bench.distribution import Distribution
from tandem.bench.outcome import Outcome
from tandem.bench.workload import Prompt

UNFINISHED = "unfinished when the time was over"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Poisson arrivals at `rate` a second. Those of the first `warm_up_s` are not measured, those
    of the `measured_s` after that are; arrivals go on until these are over, so that the last of
    them find the same load as the first. All times are the model's own: on the clock of the
    machine they are `dilation` times as long."""

    rate: float
    warm_up_s: float
    measured_s: float
    seed: int = 0
    dilation: float = 1.0


@dataclass(frozen=True, slots=True)
class OpenRun:
    """The measured requests in order of arrival, the times between their tokens (in the model's own
    seconds), and the load tool's processor time per second."""

    outcomes: list[Outcome]
    intervals: Distribution
    load_cores: float


@dataclass(frozen=True, slots=True)
class _Measured:
    due_s: float
    answer: Answer
    task: asyncio.Task[None]


async def run_open_loop(
    ask: Ask, loop: OpenLoop, prompts: Iterator[Prompt], patience_s: Callable[[Prompt], float]
) -> OpenRun:
    """One run. A measured request is waited for until `patience_s` (the model's own time) after it
    was due; one that is unfinished then counts as failed."""
    gc.collect()
    gc.disable()
    try:
        return await _Run(ask, loop, prompts, patience_s).run()
    finally:
        gc.enable()


class _Run:
    def __init__(
        self,
        ask: Ask,
        loop: OpenLoop,
        prompts: Iterator[Prompt],
        patience_s: Callable[[Prompt], float],
    ) -> None:
        self._ask = ask
        self._loop = loop
        self._prompts = prompts
        self._patience_s = patience_s
        self._measured: list[_Measured] = []
        self._open: set[asyncio.Task[None]] = set()
        self._start_s = 0.0

    async def run(self) -> OpenRun:
        loop = self._loop
        self._start_s, cpu_s = perf_counter(), process_time()
        arriving = asyncio.create_task(self._arrive())
        try:
            # A failure of the loop itself ends the run at once.
            window_s = self._on_clock(loop.warm_up_s + loop.measured_s) - perf_counter()
            await asyncio.wait({arriving}, timeout=window_s)
            if arriving.done():
                arriving.result()
            await self._wait_for_measured()
        finally:
            for task in (arriving, *self._open):
                task.cancel()
            await asyncio.gather(arriving, *self._open, return_exceptions=True)
        elapsed_s = perf_counter() - self._start_s
        return OpenRun(
            [Outcome.of(each.answer, each.due_s, loop.dilation) for each in self._measured],
            Distribution.of(
                interval_s / loop.dilation
                for each in self._measured
                for interval_s in each.answer.intervals_s(self._start_s, perf_counter())
            ),
            (process_time() - cpu_s) / elapsed_s,
        )

    async def _arrive(self) -> None:
        loop = self._loop
        for at_s in poisson_arrivals(loop.rate, loop.seed):
            due_s = self._on_clock(at_s)
            # Ready before it is due: a long prompt takes its time to make.
            prompt = next(self._prompts)
            await asyncio.sleep(due_s - perf_counter())
            answer = Answer(prompt, perf_counter())
            task = asyncio.create_task(self._one(answer))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            if 0 <= at_s - loop.warm_up_s < loop.measured_s:
                self._measured.append(_Measured(due_s, answer, task))

    async def _one(self, answer: Answer) -> None:
        try:
            await self._ask(answer)
        except asyncio.CancelledError:
            answer.error = answer.error or UNFINISHED
            raise

    async def _wait_for_measured(self) -> None:
        left = [each for each in self._measured if not each.task.done()]
        if left:
            until_s = max(self._patient_until(each) for each in left)
            await asyncio.wait(
                [each.task for each in left], timeout=max(0.0, until_s - perf_counter())
            )

    def _patient_until(self, measured: _Measured) -> float:
        patience_s = self._patience_s(measured.answer.prompt)
        return measured.due_s + patience_s * self._loop.dilation

    def _on_clock(self, at_s: float) -> float:
        return self._start_s + at_s * self._loop.dilation
