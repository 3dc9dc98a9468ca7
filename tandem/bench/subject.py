"""What a sweep measures: an arm that serves, however it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tandem.bench.arms import Arm
from tandem.bench.arrivals import poisson_arrivals
from tandem.bench.mixes import MIXES, mix_prompts, tenants_of
from tandem.bench.open_loop import OpenLoop, OpenRun
from tandem.bench.outcome import Objectives, Outcome
from tandem.bench.workload import Prompt


@dataclass(frozen=True, slots=True)
class MixLoad:
    """The requests of one of `MIXES`: the same whenever they are asked for. Those of another
    `variant` have the same lengths and other tokens."""

    workload: str
    length_scale: float
    seed: int
    token_ids: range
    variant: str

    def prompts(self) -> Iterator[Prompt]:
        """Endless."""
        mix = MIXES[self.workload].scaled(self.length_scale)
        return mix_prompts(mix, self.seed, self.token_ids, self.variant)

    def prompts_alone(self, num_requests: int) -> Iterator[Prompt]:
        """One to warm up, and then the first so many of each tenant."""
        prompts = self.prompts()
        yield next(prompts)
        left = dict.fromkeys(tenants_of(MIXES[self.workload]), num_requests)
        while any(left.values()):
            prompt = next(prompts)
            if left[prompt.tenant]:
                left[prompt.tenant] -= 1
                yield prompt


@dataclass(frozen=True, slots=True)
class PoissonLoop:
    """An `OpenLoop` whose requests come by a Poisson process, so many a second."""

    rate: float
    warm_up_s: float
    measured_s: float
    seed: int = 0
    dilation: float = 1.0

    def open(self) -> OpenLoop:
        arrivals = poisson_arrivals(self.rate, self.seed)
        return OpenLoop(arrivals, self.warm_up_s, self.measured_s, dilation=self.dilation)


class Subject(Protocol):
    """An arm that serves."""

    async def alone(self, load: MixLoad, num_requests: int) -> list[Outcome]:
        """So many requests of each tenant, one at a time, after one that warms up."""
        ...

    async def at_rate(self, load: MixLoad, loop: PoissonLoop, loosest: Objectives) -> OpenRun:
        """An open loop. A request that has missed the loosest objectives need not be waited for."""
        ...


class Subjects(Protocol):
    """Lets arms serve, as many at a time as do not disturb each other. Who comes first is first."""

    def serving(self, arm: Arm) -> AbstractAsyncContextManager[Subject]:
        """An arm as long as it serves. Raises `CannotStart` or `TandemError`."""
        ...
