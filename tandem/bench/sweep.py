"""Sweeps rates over arms: has them measured, and writes down what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean

from tandem.bench.arms import Arm
from tandem.bench.concurrency import all_of
from tandem.bench.goodput import SHARE
from tandem.bench.objectives import (
    CLAIM,
    LOOSEST,
    Cell,
    best,
    cell_name,
    objective_grid,
    uncontended,
)
from tandem.bench.open_loop import OpenRun
from tandem.bench.outcome import Objectives, attainment
from tandem.bench.percentiles import percentiles
from tandem.bench.rate_search import RateSearch
from tandem.bench.records import Base, Conditions, RateRun, Record, UncontendedRun
from tandem.bench.subject import MixLoad, PoissonLoop, Subject, Subjects
from tandem.core.errors import Unavailable

MAX_PROBLEMS = 5
NUM_SAMPLED = 200


@dataclass(frozen=True)
class SweepSettings:
    """What is swept: the arms are those that the conditions name."""

    conditions: Conditions
    arms: Sequence[Arm]
    token_ids: range


class GoodputSweep:
    """Measures uncontended arms, fixes the objectives, then looks for each arm's goodput: in rounds
    over all arms, each started anew in each round. How many arms are measured at a time is the
    subjects' affair."""

    def __init__(
        self,
        settings: SweepSettings,
        subjects: Subjects,
        write: Callable[[Record], None],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._conditions = settings.conditions
        self._subjects = subjects
        self._write = write
        self._say = say

    async def run(self) -> None:
        """The whole sweep. Raises `CannotStart`, or `Unavailable` if an arm serves nothing."""
        self._write(self._conditions)
        bases = await self._fix_objectives()
        for workload in self._conditions.workloads:
            await self._search(
                workload, self._first_rate(workload, bases[workload]), bases[workload]
            )

    # Uncontended

    async def _fix_objectives(self) -> dict[str, Objectives]:
        arms, workloads = self._settings.arms, self._conditions.workloads
        measured = await all_of(self._measure_alone(arm) for arm in arms)
        bases: dict[str, Objectives] = {}
        for workload in workloads:
            bases[workload] = best([each[workload] for each in measured])
            for arm, alone in zip(arms, measured, strict=True):
                for tenant, each in alone[workload].items():
                    run = UncontendedRun(workload, str(arm), each.ttft_s, each.tpot_s, tenant)
                    self._write(run)
            for tenant, each in bases[workload].items():
                self._write(Base(workload, each.ttft_s, each.tpot_s, tenant))
        return bases

    async def _measure_alone(self, arm: Arm) -> dict[str, Objectives]:
        async with self._subjects.serving(arm) as subject:
            return {
                workload: await self._alone(subject, arm, workload)
                for workload in self._conditions.workloads
            }

    async def _alone(self, subject: Subject, arm: Arm, workload: str) -> Objectives:
        outcomes = await subject.alone(self._load(workload), self._conditions.num_uncontended)
        measured = uncontended(outcomes)
        if measured is None:
            raise Unavailable(f"{arm} served no request alone: {outcomes[-1].problem}")
        for tenant, each in measured.items():
            self._say(
                f"{' '.join(filter(None, (workload, tenant)))}, {arm} alone:"
                f" TTFT {each.ttft_s * 1e3:.0f} ms, TPOT {each.tpot_s * 1e3:.1f} ms"
            )
        return measured

    # The sweep

    def _first_rate(self, workload: str, alone: Objectives) -> float:
        """At which all devices would be busy, if each served one request at a time."""
        sample = islice(self._load(workload).prompts(), NUM_SAMPLED)
        served_s = mean(alone[each.tenant].latest_s(each.num_output) for each in sample)
        return self._conditions.num_devices / served_s

    async def _search(self, workload: str, start: float, base: Objectives) -> None:
        objectives = objective_grid(base)
        self._say(
            f"{workload}: below, the shares in time if (TTFT, TPOT) may be so many times the best"
            f" alone: {', '.join(map(cell_name, objectives))}"
        )
        tolerance = self._conditions.tolerance
        searches = {arm: RateSearch(start, tolerance) for arm in self._settings.arms}
        turn = 0
        while searches:
            arms = list(searches)
            turned = (*arms[turn % len(arms) :], *arms[: turn % len(arms)])
            await all_of(self._visit(arm, searches[arm], workload, objectives) for arm in turned)
            searches = {
                arm: search for arm, search in searches.items() if search.next_rate() is not None
            }
            turn += 1

    async def _visit(
        self, arm: Arm, search: RateSearch, workload: str, objectives: dict[Cell, Objectives]
    ) -> None:
        """Have an arm serve, and try some rates."""
        async with self._subjects.serving(arm) as subject:
            for _ in range(self._conditions.rates_per_start):
                if (rate := search.next_rate()) is None:
                    return
                run = await self._measure(subject, arm, workload, rate, objectives)
                search.record(
                    rate,
                    claim_holds=attainment(run.outcomes, objectives[CLAIM]) >= SHARE,
                    loosest_holds=attainment(run.outcomes, objectives[LOOSEST]) >= SHARE,
                )

    async def _measure(
        self,
        subject: Subject,
        arm: Arm,
        workload: str,
        rate: float,
        objectives: dict[Cell, Objectives],
    ) -> OpenRun:
        loop = poisson_loop(self._conditions, rate)
        run = await subject.at_rate(self._load(workload, str(rate)), loop, objectives[LOOSEST])
        self._write(rate_run(run, workload, arm, rate))
        self._say(
            f"{workload}, {arm} at {rate:.2f}/s: "
            + ", ".join(
                f"{attainment(run.outcomes, objective):.0%}" for objective in objectives.values()
            )
            + f" of {len(run.outcomes)}"
        )
        return run

    def _load(self, workload: str, variant: str = "alone") -> MixLoad:
        conditions, token_ids = self._conditions, self._settings.token_ids
        return MixLoad(workload, conditions.length_scale, conditions.seed, token_ids, variant)


def poisson_loop(conditions: Conditions, rate: float) -> PoissonLoop:
    """At a rate: for as long as was said, and as many requests."""
    return PoissonLoop(
        rate,
        conditions.warm_up_s,
        max(conditions.measured_s, conditions.num_requests / rate),
        conditions.seed,
        conditions.dilation,
    )


def rate_run(run: OpenRun, workload: str, arm: Arm, rate: float) -> RateRun:
    """A run as it is written down."""
    late = [each.late_s for each in run.outcomes]
    return RateRun(
        workload=workload,
        arm=str(arm),
        is_colocated=arm.is_colocated,
        rate=rate,
        requests=[
            (
                each.num_prompt,
                each.num_output,
                _rounded(each.ttft_s),
                _rounded(each.tpot_s),
                each.tenant,
            )
            for each in run.outcomes
        ],
        problems=[each.problem for each in run.outcomes if each.problem][:MAX_PROBLEMS],
        itl=run.itl.to_json(),
        late_p99_s=round(float(percentiles(late, (99,))[0]), 6) if late else 0.0,
        load_cores=round(run.load_cores, 3),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
