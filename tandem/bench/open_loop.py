"""An open loop: requests come when they come, whether or not the server keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import perf_counter, process_time

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import Ask, answered
from tandem.bench.distribution import Distribution
from tandem.bench.outcome import Outcome
from tandem.bench.workload import Prompt
from tandem.core.errors import Unavailable

# A place whose request found nobody is free again only after that: who has gone away would else be
# asked thousands of times a second.
PAUSE_S = 1.0
# Of each place's requests that found nobody, with no other between: then the run is over.
MAX_IN_VAIN = 5


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests are due at `arrivals`, seconds from the start. Those of the first `warm_up_s` are
    not measured, those of the `measured_s` after that are; arrivals go on until these are over, so
    that the last of them find the same load as the first. After `num_measured` of them, if there is
    such a bound, none comes any more. All times are the model's own: on the clock of the machine
    they are `dilation` times as long.

    With a `concurrency` no more are under way at a time: one for which there is no place is due
    when there is. If all arrive at 0, that is a closed loop. It ends early if nobody is there any
    more: after `MAX_IN_VAIN` requests for each place, in a row, that found nobody.
    """

    arrivals: Iterable[float]
    warm_up_s: float = 0.0
    measured_s: float = inf
    num_measured: int = 0
    concurrency: int = 0
    dilation: float = 1.0


@dataclass(frozen=True, slots=True)
class OpenRun:
    """The measured requests in order of arrival, their inter-token latencies (in the model's own
    time), and the load tool's processor time per second."""

    outcomes: list[Outcome]
    itl: Distribution
    load_cores: float


@dataclass(frozen=True, slots=True)
class _Measured:
    due_s: float
    answer: Answer
    task: asyncio.Task[None]


async def run_open_loop(
    ask: Ask,
    loop: OpenLoop,
    prompts: Iterator[Prompt],
    patience_s: Callable[[Prompt], float],
    start_s: float | None = None,
) -> OpenRun:
    """One run, which starts at `start_s` of `perf_counter`, or at once; to be had `uncollected`. A
    measured request is waited for until `patience_s` (the model's own time) after it was due; one
    that is unfinished then counts as failed. Raises `Unavailable` if it ends since nobody is there
    any more."""
    start_s = perf_counter() if start_s is None else start_s
    return await _Run(ask, loop, prompts, patience_s, start_s).run()


class _Run:
    def __init__(
        self,
        ask: Ask,
        loop: OpenLoop,
        prompts: Iterator[Prompt],
        patience_s: Callable[[Prompt], float],
        start_s: float,
    ) -> None:
        self._ask = ask
        self._loop = loop
        self._prompts = prompts
        self._patience_s = patience_s
        self._measured: list[_Measured] = []
        self._open: set[asyncio.Task[None]] = set()
        self._start_s = start_s
        self._end_s = self._on_clock(loop.warm_up_s + loop.measured_s)
        # Set when nobody can come any more who is to be measured.
        self._all_came = asyncio.Event()
        # Since when each place is free.
        self._places: asyncio.Queue[float] = asyncio.Queue()
        # How many found nobody since the last that found somebody.
        self._num_in_vain = 0

    async def run(self) -> OpenRun:
        loop = self._loop
        began_s, cpu_s = perf_counter(), process_time()
        for _ in range(loop.concurrency):
            self._places.put_nowait(self._start_s)
        arriving = asyncio.create_task(self._arrive())
        arriving.add_done_callback(lambda _: self._all_came.set())
        try:
            await self._all_came.wait()
            if not arriving.done():
                await asyncio.wait({arriving}, timeout=max(0.0, self._end_s - perf_counter()))
            if arriving.done():
                # A failure of the loop itself ends the run at once.
                arriving.result()
            await self._wait_for_measured()
        finally:
            for task in (arriving, *self._open):
                task.cancel()
            await asyncio.gather(arriving, *self._open, return_exceptions=True)
        elapsed_s = perf_counter() - began_s
        return OpenRun(
            [Outcome.of(each.answer, each.due_s, loop.dilation) for each in self._measured],
            Distribution.of(
                itl_s / loop.dilation for each in self._measured for itl_s in each.answer.itl_s()
            ),
            (process_time() - cpu_s) / elapsed_s,
        )

    async def _arrive(self) -> None:
        loop = self._loop
        for at_s in loop.arrivals:
            due_s = self._on_clock(at_s)
            self._note_end(due_s)
            # Ready before it is due: a long prompt takes its time to make.
            prompt = next(self._prompts)
            await asyncio.sleep(due_s - perf_counter())
            if loop.concurrency:
                due_s = max(due_s, await self._place())
                self._note_end(due_s)
                await self._check_somebody_is_there()
            answer = Answer(prompt, due_s, is_measured=self._is_measured(due_s))
            task = asyncio.create_task(self._one(answer))
            self._open.add(task)
            task.add_done_callback(self._over)
            if answer.is_measured:
                self._measured.append(_Measured(due_s, answer, task))
                if len(self._measured) == loop.num_measured:
                    return

    async def _one(self, answer: Answer) -> None:
        await answered(self._ask, answer)
        self._num_in_vain = self._num_in_vain + 1 if answer.found_nobody else 0
        if answer.found_nobody and self._loop.concurrency:
            await asyncio.sleep(PAUSE_S)

    async def _check_somebody_is_there(self) -> None:
        """Raises `Unavailable` if not, once those have ended who are being answered."""
        if self._num_in_vain >= (limit := MAX_IN_VAIN * self._loop.concurrency):
            await self._wait_for_measured()
            raise Unavailable(f"the last {limit} requests found nobody to serve them")

    async def _place(self) -> float:
        """Since when there is one, which is waited for. Whoever waits at the window's end is due
        after it; who is late to take a place that was free before, is not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._end_s - perf_counter()):
                return await self._places.get()
        if self._places.empty():
            self._all_came.set()
        return await self._places.get()

    def _note_end(self, due_s: float) -> None:
        """Those who come from here on are not measured any more, if this one comes too late."""
        if due_s >= self._end_s:
            self._all_came.set()

    def _is_measured(self, due_s: float) -> bool:
        after_s = (due_s - self._start_s) / self._loop.dilation - self._loop.warm_up_s
        return 0 <= after_s < self._loop.measured_s

    def _over(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if self._loop.concurrency:
            self._places.put_nowait(perf_counter())

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
