"""One run of a workload in figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tandem.bench.answer import Answer
from tandem.bench.distribution import Distribution
from tandem.bench.workload import Workload

STALL_MS = 80.0
MAX_PROBLEMS = 5


@dataclass(slots=True)
class Run:
    """What clients saw from the first request to the end, and what the load tool took for it.

    `load_cores`: processor time of the load tool, per second. `end_s` is the last token's time, or
    where a workload lasts a fixed time, that time's end; tokens after it do not count.
    """

    answers: list[Answer]
    long_answers: list[Answer]
    start_s: float
    end_s: float
    load_cores: float


@dataclass(slots=True)
class Summary:
    """Figures of one run, a line of JSON. Times are distributions, from which percentiles and, over
    several runs, those of all together are worked out."""

    arm: str
    workload: str
    seed: int
    seconds: float
    num_requests: int
    num_tokens: int
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    long_ttft: Distribution
    load_cores: float
    num_problems: int
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, workload: Workload, arm: str, seed: int) -> Summary:
        """Only the steady streams count for tokens and times, but for `long_ttft`.

        First tokens count also after the window: the slowest would be missing.
        """
        good = [each for each in run.answers if not each.problem()]
        ended = [each for each in good if each.arrivals[-1][0] <= run.end_s]
        problems = [problem for each in _all(run) if (problem := each.problem())]
        window = (run.start_s, run.end_s)
        return cls(
            arm=arm,
            workload=workload.name,
            seed=seed,
            seconds=run.end_s - run.start_s,
            num_requests=len(ended),
            num_tokens=sum(each.tokens_between(*window) for each in run.answers),
            ttft=Distribution.of(e.ttft_s() for e in run.answers if e.arrivals),
            tpot=Distribution.of(e.tpot_s() for e in ended if e.num_tokens > 1),
            itl=Distribution.of(t for e in run.answers for t in e.itl_s(*window)),
            long_ttft=Distribution.of(e.ttft_s() for e in run.long_answers if e.arrivals),
            load_cores=run.load_cores,
            num_problems=len(problems),
            problems=problems[:MAX_PROBLEMS],
        )

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def requests_per_s(self) -> float:
        return self.num_requests / self.seconds

    def figures(self) -> dict[str, float | int | None]:
        """What there is to report, by name."""
        return {
            "output_tokens_per_s": round(self.tokens_per_s, 1),
            "requests_per_s": round(self.requests_per_s, 2),
            "ttft_p50_ms": self.ttft.percentile_ms(50),
            "ttft_p99_ms": self.ttft.percentile_ms(99),
            "tpot_p50_ms": self.tpot.percentile_ms(50),
            "itl_p50_ms": self.itl.percentile_ms(50),
            "itl_p99_ms": self.itl.percentile_ms(99),
            "itl_p999_ms": self.itl.percentile_ms(99.9),
            "itl_max_ms": self.itl.max_ms(),
            "num_intervals": len(self.itl),
            "num_stalls": self.itl.num_over_ms(STALL_MS),
            "long_ttft_p50_ms": self.long_ttft.percentile_ms(50),
            "load_cores": round(self.load_cores, 3),
            "num_problems": self.num_problems,
        }

    def to_json(self) -> str:
        """One line: the figures, and what `from_json` needs."""
        whole = {name: value for name, value in asdict(self).items() if name not in DISTRIBUTIONS}
        whole |= {name: getattr(self, name).to_json() for name in DISTRIBUTIONS}
        return json.dumps(whole | {"figures": self.figures()}, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Summary:
        """What `to_json` made."""
        whole: dict[str, Any] = json.loads(line)
        del whole["figures"]
        whole |= {name: Distribution.from_json(whole[name]) for name in DISTRIBUTIONS}
        return cls(**whole)

    @classmethod
    def pooled(cls, runs: Sequence[Summary]) -> Summary:
        """Several runs of one arm and workload as if they were one."""
        first, seconds = runs[0], sum(each.seconds for each in runs)
        return cls(
            arm=first.arm,
            workload=first.workload,
            seed=first.seed,
            seconds=seconds,
            num_requests=sum(each.num_requests for each in runs),
            num_tokens=sum(each.num_tokens for each in runs),
            ttft=Distribution.merged(each.ttft for each in runs),
            tpot=Distribution.merged(each.tpot for each in runs),
            itl=Distribution.merged(each.itl for each in runs),
            long_ttft=Distribution.merged(each.long_ttft for each in runs),
            load_cores=sum(each.load_cores * each.seconds for each in runs) / seconds,
            num_problems=sum(each.num_problems for each in runs),
            problems=[problem for each in runs for problem in each.problems][:MAX_PROBLEMS],
        )


DISTRIBUTIONS = ("ttft", "tpot", "itl", "long_ttft")


def _all(run: Run) -> Iterable[Answer]:
    return (*run.answers, *run.long_answers)
