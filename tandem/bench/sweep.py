"""Sweeps rates over arms: starts servers, loads them, writes down what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from time import perf_counter

from tandem.bench.answer import Answer
from tandem.bench.arms import Arm
from tandem.bench.arrivals import poisson_arrivals
from tandem.bench.closed_loop import Ask
from tandem.bench.completion_stream import Endpoint, complete
from tandem.bench.distribution import Distribution
from tandem.bench.goodput import SHARE
from tandem.bench.mixes import MIXES, mix_prompts
from tandem.bench.objectives import CLAIM, LOOSEST, Cell, best, objective_grid, uncontended
from tandem.bench.open_loop import OpenLoop, OpenRun, run_open_loop
from tandem.bench.outcome import Objective, Outcome, attainment
from tandem.bench.rate_search import RateSearch
from tandem.bench.records import Base, Conditions, RateRun, Record, UncontendedRun
from tandem.bench.server import running
from tandem.bench.workload import Prompt
from tandem.core.errors import Unavailable

MAX_PROBLEMS = 5
NUM_SAMPLED = 200


@dataclass(frozen=True)
class SweepSettings:
    """What is swept. `flags` are those of `tandem up` that all arms have. `num_devices` is what
    each arm has of them."""

    conditions: Conditions
    arms: Sequence[Arm]
    workloads: Sequence[str]
    flags: tuple[str, ...]
    token_ids: range
    num_devices: int
    num_uncontended: int
    rates_per_start: int
    tolerance: float


class GoodputSweep:
    """Measures uncontended arms, fixes the objectives, then looks for each arm's goodput: in rounds
    over all arms, each started anew in each round."""

    def __init__(
        self,
        settings: SweepSettings,
        logs: Path,
        write: Callable[[Record], None],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._logs = logs
        self._write = write
        self._say = say

    async def run(self) -> None:
        """The whole sweep. Raises `CannotStart`, or `Unavailable` if an arm serves nothing."""
        self._write(self._settings.conditions)
        bases = await self._fix_objectives()
        for workload in self._settings.workloads:
            await self._search(
                workload, self._first_rate(workload, bases[workload]), bases[workload]
            )

    # Uncontended

    async def _fix_objectives(self) -> dict[str, Objective]:
        alone: dict[str, list[Objective]] = {each: [] for each in self._settings.workloads}
        for arm in self._settings.arms:
            async with self._serving(arm) as ask:
                for workload in self._settings.workloads:
                    alone[workload].append(await self._measure_alone(ask, arm, workload))
        bases = {workload: best(measured) for workload, measured in alone.items()}
        for workload, base in bases.items():
            self._write(Base(workload, base.ttft_s, base.tpot_s))
        return bases

    async def _measure_alone(self, ask: Ask, arm: Arm, workload: str) -> Objective:
        prompts = self._prompts(workload)
        outcomes: list[Outcome] = []
        # The first one warms up.
        for _ in range(1 + self._settings.num_uncontended):
            answer = Answer(next(prompts), due_s := perf_counter())
            await ask(answer)
            outcomes.append(Outcome.of(answer, due_s, self._dilation))
        measured = uncontended(outcomes[1:])
        if measured is None:
            raise Unavailable(f"{arm} served no request alone: {outcomes[-1].problem}")
        self._write(UncontendedRun(workload, str(arm), measured.ttft_s, measured.tpot_s))
        self._say(
            f"{workload}, {arm} alone: TTFT {measured.ttft_s * 1e3:.0f} ms,"
            f" TPOT {measured.tpot_s * 1e3:.1f} ms"
        )
        return measured

    # The sweep

    def _first_rate(self, workload: str, alone: Objective) -> float:
        """At which all devices would be busy, if each served one request at a time."""
        sample = islice(self._prompts(workload), NUM_SAMPLED)
        num_output = mean(prompt.num_output for prompt in sample)
        return self._settings.num_devices / (alone.ttft_s + num_output * alone.tpot_s)

    async def _search(self, workload: str, start: float, base: Objective) -> None:
        settings = self._settings
        objectives = objective_grid(base)
        searches = {arm: RateSearch(start, settings.tolerance) for arm in settings.arms}
        turn = 0
        while searches:
            arms = list(searches)
            for arm in (*arms[turn % len(arms) :], *arms[: turn % len(arms)]):
                await self._visit(arm, searches[arm], workload, objectives)
                if searches[arm].next_rate() is None:
                    del searches[arm]
            turn += 1

    async def _visit(
        self, arm: Arm, search: RateSearch, workload: str, objectives: dict[Cell, Objective]
    ) -> None:
        """Start an arm, and try some rates."""
        async with self._serving(arm) as ask:
            for _ in range(self._settings.rates_per_start):
                if (rate := search.next_rate()) is None:
                    return
                outcomes = await self._measure(ask, arm, workload, rate, objectives)
                search.record(
                    rate,
                    claim_holds=attainment(outcomes, objectives[CLAIM]) >= SHARE,
                    loosest_holds=attainment(outcomes, objectives[LOOSEST]) >= SHARE,
                )

    async def _measure(
        self,
        ask: Ask,
        arm: Arm,
        workload: str,
        rate: float,
        objectives: dict[Cell, Objective],
    ) -> list[Outcome]:
        conditions = self._settings.conditions
        loop = OpenLoop(
            poisson_arrivals(rate, conditions.seed),
            conditions.warm_up_s,
            conditions.measured_s,
            dilation=self._dilation,
        )
        loosest = objectives[LOOSEST]

        def patience_s(prompt: Prompt) -> float:
            return loosest.ttft_s + prompt.num_output * loosest.tpot_s

        run = await run_open_loop(ask, loop, self._prompts(workload, rate), patience_s)
        self._write(rate_run(run, workload, arm, rate))
        self._say(
            f"{workload}, {arm} at {rate:.2f}/s: "
            + ", ".join(
                f"{attainment(run.outcomes, objective):.0%}" for objective in objectives.values()
            )
            + f" of {len(run.outcomes)}"
        )
        return run.outcomes

    def _prompts(self, workload: str, variant: object = "alone") -> Iterator[Prompt]:
        settings = self._settings
        mix = MIXES[workload].scaled(settings.conditions.length_scale)
        return mix_prompts(mix, settings.conditions.seed, settings.token_ids, variant)

    @asynccontextmanager
    async def _serving(self, arm: Arm) -> AsyncIterator[Ask]:
        async with running(arm.spec(self._settings.flags, self._logs), self._logs) as server:
            endpoint = Endpoint("127.0.0.1", server.port)

            async def ask(answer: Answer) -> None:
                await complete(endpoint, answer)

            yield ask

    @property
    def _dilation(self) -> float:
        return self._settings.conditions.dilation


def rate_run(run: OpenRun, workload: str, arm: Arm, rate: float) -> RateRun:
    """A run as it is written down."""
    late = sorted(each.late_s for each in run.outcomes)
    return RateRun(
        workload=workload,
        arm=str(arm),
        is_colocated=arm.is_colocated,
        rate=rate,
        requests=[
            (each.num_prompt, each.num_output, _rounded(each.ttft_s), _rounded(each.tpot_s))
            for each in run.outcomes
        ],
        problems=[each.problem for each in run.outcomes if each.problem][:MAX_PROBLEMS],
        itl=Distribution.of(run.intervals_s).to_json(),
        late_p99_s=round(late[int(0.99 * len(late))], 6) if late else 0.0,
        load_cores=round(run.load_cores, 3),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
