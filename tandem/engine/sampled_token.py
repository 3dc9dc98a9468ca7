"""What a step gives for a slice that samples, and a step's result made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tandem.core.errors import TandemError
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.plan import StepPlan, StepResult


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token, or why there is none."""

    token_id: int | None = None
    logprobs: TokenLogprobs | None = None
    failure: TandemError | None = None


NOT_ASKED = SampledToken()


def step_result(
    plan: StepPlan, sampled: Iterable[SampledToken], scored: Sequence[LogprobColumns] = ()
) -> StepResult:
    """`sampled` are those of the slices that sample, and `scored` of those with scores, in the
    plan's order."""
    each_sampled, each_scored = iter(sampled), iter(scored)
    row = [NOT_ASKED if each.sample is None else next(each_sampled) for each in plan.slices]
    logprobs = tuple(each.logprobs for each in row)
    failures = tuple(each.failure for each in row)
    return StepResult(
        tuple(each.token_id for each in row),
        logprobs=logprobs if any(logprobs) else (),
        failures=failures if any(failures) else (),
        scores=tuple(next(each_scored) if each.score else None for each in plan.slices)
        if scored
        else (),
    )
