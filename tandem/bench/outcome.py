"""What became of requests, and how many of them were served as they should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tandem.bench.answer import Answer


@dataclass(frozen=True, slots=True)
class Objective:
    """A service-level objective: bounds on a request's time to first token (TTFT) and on its time
    per output token after that (TPOT), in seconds."""

    ttft_s: float
    tpot_s: float

    def latest_s(self, num_output: float) -> float:
        """When an answer of so many tokens that keeps to both bounds is done, at the latest."""
        return self.ttft_s + num_output * self.tpot_s


Objectives = Mapping[str, Objective]
"""Each tenant's own; of a load without tenants the only one's name is empty."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are seconds of the model's own time, None if it failed or was not
    finished; `tpot_s` is 0 if there was one token. The first token's time counts from when the
    request was due, so that what a late load tool adds is not lost; `late_s` says how late it
    was."""

    num_prompt: int
    num_output: int
    ttft_s: float | None
    tpot_s: float | None
    late_s: float = 0.0
    problem: str = ""
    tenant: str = ""

    @classmethod
    def of(cls, answer: Answer, due_s: float, dilation: float) -> Outcome:
        """`due_s` is on the answer's clock, on which all takes `dilation` times as long."""
        prompt, problem = answer.prompt, answer.problem()
        late_s = (answer.sent_s - due_s) / dilation
        size = len(prompt.token_ids), prompt.num_output
        if problem:
            return cls(*size, None, None, late_s, problem, prompt.tenant)
        return cls(
            *size,
            ttft_s=(answer.arrivals[0][0] - due_s) / dilation,
            tpot_s=answer.tpot_s() / dilation if answer.num_tokens > 1 else 0.0,
            late_s=late_s,
            tenant=prompt.tenant,
        )

    def meets(self, objectives: Objectives) -> bool:
        """Whether it kept to both of its tenant's bounds. A request that failed did not."""
        if self.ttft_s is None or self.tpot_s is None:
            return False
        objective = objectives[self.tenant]
        return self.ttft_s <= objective.ttft_s and self.tpot_s <= objective.tpot_s


def attainment(outcomes: Sequence[Outcome], objectives: Objectives) -> float:
    """The share of requests that met their objective; 0 if there was none."""
    if not outcomes:
        return 0.0
    return sum(each.meets(objectives) for each in outcomes) / len(outcomes)


def ttfts(outcomes: Iterable[Outcome]) -> list[float]:
    """Of those that were served."""
    return [each.ttft_s for each in outcomes if each.ttft_s is not None]


def tpots(outcomes: Iterable[Outcome]) -> list[float]:
    """The same of those that have more than one token."""
    return [each.tpot_s for each in outcomes if each.tpot_s]
