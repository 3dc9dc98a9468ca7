"""What a comparison wrote down: lines of JSON, one for each run, one for each start."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tandem.bench.summary import Summary


@dataclass(frozen=True)
class Start:
    """Of one server: seconds to ready, bytes of memory (PSS) once it has done its work."""

    arm: str
    start_s: float
    pss: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Records:
    """All runs and starts, in order."""

    def __init__(self, lines: list[str]) -> None:
        starts = [line for line in lines if "start_s" in json.loads(line)]
        self.starts = [Start(**json.loads(line)) for line in starts]
        self.runs = [Summary.from_json(line) for line in lines if line not in starts]

    @classmethod
    def read(cls, file: Path) -> Records:
        return cls(file.read_text().splitlines())

    def arms(self) -> list[str]:
        """In the order of their first run."""
        return list(dict.fromkeys(each.arm for each in self.runs))

    def workloads(self) -> list[str]:
        return sorted({each.workload for each in self.runs})

    def of(self, arm: str, workload: str) -> list[Summary]:
        """Runs, by seed."""
        runs = (e for e in self.runs if (e.arm, e.workload) == (arm, workload))
        return sorted(runs, key=lambda run: run.seed)

    def ratios(
        self, arm: str, other: str, workload: str, figure: Callable[[Summary], float | None]
    ) -> list[float]:
        """A figure of `arm` by that of `other`, for each round that has both."""
        own, others = (
            {run.seed: figure(run) for run in self.of(name, workload)} for name in (arm, other)
        )
        pairs = ((own[seed], others.get(seed)) for seed in own)
        return [mine / theirs for mine, theirs in pairs if mine and theirs]
