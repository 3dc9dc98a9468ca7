"""Arms as processes: each a `tandem up` on this machine, loaded over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

from tandem.bench.answer import Answer
from tandem.bench.arms import Arm
from tandem.bench.closed_loop import uncollected
from tandem.bench.completion_stream import Endpoint, complete
from tandem.bench.open_loop import OpenRun, run_open_loop
from tandem.bench.outcome import Objectives, Outcome
from tandem.bench.server import START_TIMEOUT_S, running
from tandem.bench.subject import MixLoad, PoissonLoop, Subject


class ServedArm:
    """A `Subject` behind an endpoint. On the machine's clock all takes `dilation` times as long."""

    def __init__(self, endpoint: Endpoint, dilation: float) -> None:
        self._ask = partial(complete, endpoint)
        self._dilation = dilation

    async def alone(self, load: MixLoad, num_requests: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for prompt in load.prompts_alone(num_requests):
            answer = Answer(prompt, due_s := perf_counter())
            await self._ask(answer)
            outcomes.append(Outcome.of(answer, due_s, self._dilation))
        return outcomes[1:]

    async def at_rate(self, load: MixLoad, loop: PoissonLoop, loosest: Objectives) -> OpenRun:
        prompts = load.prompts()
        with uncollected():
            return await run_open_loop(
                self._ask,
                loop.open(),
                prompts,
                lambda prompt: loosest[prompt.tenant].latest_s(prompt.num_output),
            )


class ServedArms:
    """Starts and ends the processes, of one arm at a time. `flags` are those of `tandem up` that
    all have."""

    def __init__(
        self,
        flags: tuple[str, ...],
        logs: Path,
        dilation: float,
        start_timeout_s: int = START_TIMEOUT_S,
    ) -> None:
        self._flags = flags
        self._logs = logs
        self._dilation = dilation
        self._start_timeout_s = start_timeout_s
        self._machine = asyncio.Lock()

    @asynccontextmanager
    async def serving(self, arm: Arm) -> AsyncIterator[Subject]:
        """Raises `CannotStart`."""
        spec = arm.spec(self._flags, self._logs, self._start_timeout_s)
        async with self._machine, running(spec, self._logs) as server:
            yield ServedArm(Endpoint("127.0.0.1", server.port), self._dilation)
