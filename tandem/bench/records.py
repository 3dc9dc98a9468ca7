"""What a sweep writes down: a line of JSON for each thing that was fixed or measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.bench.distribution import Distribution
from tandem.bench.goodput import Level
from tandem.bench.objectives import Cell, objective_grid
from tandem.bench.outcome import Objective, Outcome


@dataclass(frozen=True)
class Conditions:
    """What holds for a whole sweep."""

    device: str
    model: str
    dilation: float
    length_scale: float
    warm_up_s: float
    measured_s: float
    seed: int


@dataclass(frozen=True)
class UncontendedRun:
    """An arm alone with one request at a time."""

    workload: str
    arm: str
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Base:
    """What a workload's objectives are multiples of: the best uncontended arm's times."""

    workload: str
    ttft_s: float
    tpot_s: float

    @property
    def objective(self) -> Objective:
        return Objective(self.ttft_s, self.tpot_s)


@dataclass(frozen=True)
class RateRun:
    """An arm at one rate, each request by itself: prompt tokens, output tokens, TTFT and TPOT in
    seconds (None if it failed)."""

    workload: str
    arm: str
    is_colocated: bool
    rate: float
    requests: list[tuple[int, int, float | None, float | None]]
    problems: list[str]
    itl: list[tuple[int, int]]
    late_p99_s: float
    load_cores: float

    @property
    def outcomes(self) -> list[Outcome]:
        return [Outcome(*each) for each in self.requests]

    @property
    def intervals(self) -> Distribution:
        """Times between tokens."""
        return Distribution.from_json(self.itl)

    def level(self, objective: Objective) -> Level:
        """How many met an objective."""
        met = sum(each.meets(objective) for each in self.outcomes)
        return Level(self.rate, len(self.requests), met)


Record = Conditions | UncontendedRun | Base | RateRun
KINDS: dict[str, type[Any]] = {
    "conditions": Conditions,
    "uncontended": UncontendedRun,
    "base": Base,
    "rate": RateRun,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


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
        self.bases = {each.workload: each for each in self.records if isinstance(each, Base)}
        self.runs = [each for each in self.records if isinstance(each, RateRun)]

    @classmethod
    def read(cls, file: Path) -> Sweep:
        return cls(from_json(line) for line in file.read_text().splitlines())

    @property
    def workloads(self) -> list[str]:
        return list(self.bases)

    def arms(self, workload: str) -> list[str]:
        """In the order of their first run."""
        return list(dict.fromkeys(each.arm for each in self.runs if each.workload == workload))

    def of(self, workload: str, arm: str) -> list[RateRun]:
        """Runs, by rate."""
        runs = (each for each in self.runs if (each.workload, each.arm) == (workload, arm))
        return sorted(runs, key=lambda run: run.rate)

    def levels(self, workload: str, arm: str, cell: Cell) -> list[Level]:
        """How an arm kept to one of the objectives, by rate."""
        objective = objective_grid(self.bases[workload].objective)[cell]
        return [run.level(objective) for run in self.of(workload, arm)]

    def colocated(self, workload: str) -> Sequence[str]:
        """The arms that do not split."""
        return self._arms(workload, is_colocated=True)

    def split(self, workload: str) -> Sequence[str]:
        """The arms that do."""
        return self._arms(workload, is_colocated=False)

    def _arms(self, workload: str, *, is_colocated: bool) -> list[str]:
        kinds = {run.arm: run.is_colocated for run in self.runs if run.workload == workload}
        return [arm for arm in self.arms(workload) if kinds[arm] is is_colocated]
