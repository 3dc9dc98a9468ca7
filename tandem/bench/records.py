"""What a sweep writes down: a line of JSON for each thing that was fixed or measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any

from tandem.bench.distribution import Distribution
from tandem.bench.goodput import Level
from tandem.bench.objectives import GRID, Cell, objective_grid
from tandem.bench.outcome import Objective, Objectives, Outcome
from tandem.bench.percentiles import percentiles

Request = tuple[int, int, float | None, float | None, str]

# Of the times that a summary keeps.
PERCENTS = (50, 90, 99)


@dataclass(frozen=True)
class Conditions:
    """What holds for a whole sweep, and what it takes to repeat it. Each rate is measured for
    `measured_s`, and as long as `num_requests` take to come. `simulated`: times are virtual.
    `num_devices` is what each arm has of them, `num_uncontended` the requests that it serves alone,
    and `up_flags` are those of `tandem up` that all arms have. After `rates_per_start` rates it is
    another arm's turn. Older records have nothing from `num_devices` on."""

    device: str
    model: str
    dilation: float
    length_scale: float
    warm_up_s: float
    measured_s: float
    seed: int
    num_requests: int = 0
    simulated: bool = False
    num_devices: int = 0
    arms: list[str] = field(default_factory=list)
    workloads: list[str] = field(default_factory=list)
    num_uncontended: int = 0
    rates_per_start: int = 0
    tolerance: float = 0.0
    up_flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class UncontendedRun:
    """An arm alone with one request at a time."""

    workload: str
    arm: str
    ttft_s: float
    tpot_s: float
    tenant: str = ""


@dataclass(frozen=True)
class Base:
    """What the objectives of a workload's tenant are multiples of: the best uncontended arm's
    times."""

    workload: str
    ttft_s: float
    tpot_s: float
    tenant: str = ""

    @property
    def objective(self) -> Objective:
        return Objective(self.ttft_s, self.tpot_s)


class Bases:
    """By workload and tenant."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._objectives: dict[str, dict[str, Objective]] = {}
        for each in records:
            self.add(each)

    def add(self, record: Record) -> None:
        """Take what is one of them."""
        if isinstance(record, Base):
            self._objectives.setdefault(record.workload, {})[record.tenant] = record.objective

    def __getitem__(self, workload: str) -> Objectives:
        return self._objectives[workload]

    def __iter__(self) -> Iterator[str]:
        """The workloads."""
        return iter(self._objectives)


@dataclass(frozen=True)
class RateRun:
    """An arm at one rate, each request by itself: prompt tokens, output tokens, TTFT and TPOT in
    seconds (None if it failed), and its tenant."""

    workload: str
    arm: str
    is_colocated: bool
    rate: float
    requests: list[Request]
    problems: list[str]
    itl: list[tuple[int, int]]
    late_p99_s: float
    load_cores: float

    def summary(self, base: Objectives) -> RateSummary:
        """What tables need, with the objectives that are multiples of `base`."""
        outcomes = [_outcome(*each) for each in self.requests]
        itl = Distribution.from_json(self.itl)
        return RateSummary(
            workload=self.workload,
            arm=self.arm,
            is_colocated=self.is_colocated,
            rate=self.rate,
            num_requests=len(outcomes),
            num_failed=sum(each.ttft_s is None for each in outcomes),
            num_met=[
                sum(each.meets(objectives) for each in outcomes)
                for objectives in objective_grid(base).values()
            ],
            ttft_s=_percentiles([each.ttft_s for each in outcomes]),
            tpot_s=_percentiles([each.tpot_s for each in outcomes]),
            itl_ms=[itl.percentile_ms(percent) for percent in PERCENTS],
            problems=self.problems,
            late_p99_s=self.late_p99_s,
            load_cores=self.load_cores,
        )


@dataclass(frozen=True)
class RateSummary:
    """A `RateRun` without its requests: how many failed, how many met each objective of the grid,
    and the `PERCENTS` percentiles of all (None where one that failed counts in it)."""

    workload: str
    arm: str
    is_colocated: bool
    rate: float
    num_requests: int
    num_failed: int
    num_met: list[int]
    ttft_s: list[float | None]
    tpot_s: list[float | None]
    itl_ms: list[float | None]
    problems: list[str]
    late_p99_s: float
    load_cores: float

    def level(self, cell: Cell) -> Level:
        """How many met one of the objectives."""
        return Level(self.rate, self.num_requests, self.num_met[GRID.index(cell)])


def _outcome(
    num_prompt: int, num_output: int, ttft_s: float | None, tpot_s: float | None, tenant: str = ""
) -> Outcome:
    return Outcome(num_prompt, num_output, ttft_s, tpot_s, tenant=tenant)


def _percentiles(times_s: Sequence[float | None]) -> list[float | None]:
    """Failed requests took for ever."""
    found = percentiles([inf if each is None else each for each in times_s], PERCENTS).tolist()
    return [each if isfinite(each) else None for each in found]


Record = Conditions | UncontendedRun | Base | RateRun | RateSummary
KINDS: dict[str, type[Any]] = {
    "conditions": Conditions,
    "uncontended": UncontendedRun,
    "base": Base,
    "rate": RateRun,
    "summary": RateSummary,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def partial(file: Path) -> Path:
    """Where records stand until all are there: what is interrupted replaces none that are whole."""
    return file.with_suffix(f".partial{file.suffix}")


def to_json(record: Record) -> str:
    """One line."""
    return json.dumps({"kind": _NAMES[type(record)], **asdict(record)}, separators=(",", ":"))


def from_json(line: str) -> Record:
    """What `to_json` made."""
    fields: dict[str, Any] = json.loads(line)
    record: Record = KINDS[fields.pop("kind")](**fields)
    return record


class Sweep:
    """All records of a sweep."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.conditions = next(each for each in self.records if isinstance(each, Conditions))
        self.uncontended = [each for each in self.records if isinstance(each, UncontendedRun)]
        self.bases = Bases(self.records)
        self.runs = [
            each.summary(self.bases[each.workload]) if isinstance(each, RateRun) else each
            for each in self.records
            if isinstance(each, RateRun | RateSummary)
        ]

    @classmethod
    def read(cls, file: Path) -> Sweep:
        return cls(from_json(line) for line in file.read_text().splitlines())

    @property
    def workloads(self) -> list[str]:
        return list(self.bases)

    def arms(self, workload: str) -> list[str]:
        """Those that have been run, in the order in which they were measured alone."""
        run = {each.arm for each in self.runs if each.workload == workload}
        # Once for each tenant.
        alone = dict.fromkeys(each.arm for each in self.uncontended if each.workload == workload)
        return [arm for arm in alone if arm in run]

    def of(self, workload: str, arm: str) -> list[RateSummary]:
        """Runs, by rate."""
        runs = (each for each in self.runs if (each.workload, each.arm) == (workload, arm))
        return sorted(runs, key=lambda run: run.rate)

    def levels(self, workload: str, arm: str, cell: Cell) -> list[Level]:
        """How an arm kept to one of the objectives, by rate."""
        return [run.level(cell) for run in self.of(workload, arm)]

    def colocated(self, workload: str) -> Sequence[str]:
        """The arms that do not split."""
        return self._arms(workload, is_colocated=True)

    def split(self, workload: str) -> Sequence[str]:
        """The arms that do."""
        return self._arms(workload, is_colocated=False)

    def _arms(self, workload: str, *, is_colocated: bool) -> list[str]:
        kinds = {run.arm: run.is_colocated for run in self.runs if run.workload == workload}
        return [arm for arm in self.arms(workload) if kinds[arm] is is_colocated]
