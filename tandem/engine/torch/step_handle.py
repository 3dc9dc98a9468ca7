"""A step under way on the device, and what is handed out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.errors import TandemError
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import StepPlan, StepResult
from tandem.engine.sampled_token import SampledToken, step_result
from tandem.engine.torch.host_copy import HostCopy
from tandem.engine.torch.sample_row import NO_TOKEN
from tandem.engine.torch.stored_layers import StoredLayers
from tandem.engine.torch.token_logprobs import NO_SCORES, StepLogprobs, StepScores

NOT_FINITE = "the model's output for this token is not finite: no token can be sampled from it"


@dataclass(frozen=True, slots=True)
class TorchStepHandle:
    """A step that the device may still be at; `result` waits for it, and tells of its layers
    meanwhile.

    The columns have an entry for each slice that samples: its token (or `NO_TOKEN`), its
    log-probabilities if they are asked for, and why there is no token, if that is known already.
    """

    plan: StepPlan
    sampled: HostCopy
    logprobs: StepLogprobs
    failures: Sequence[TandemError | None]
    layers: StoredLayers | None = None
    scores: StepScores = NO_SCORES

    def result(self) -> StepResult:
        if self.layers is not None:
            self.layers.wait()
        token_ids = self.sampled.wait().tolist()
        if self._are_tokens_alone(token_ids):
            return StepResult(tuple(token_ids))
        rows = zip(token_ids, self.logprobs.report(), self.failures, strict=True)
        return step_result(self.plan, (_sampled(*row) for row in rows), self.scores.report())

    def _are_tokens_alone(self, token_ids: Sequence[int]) -> bool:
        """Whether every slice has a token and nothing else, as most steps of single tokens do."""
        is_each_asked = len(token_ids) == len(self.plan.slices)
        is_each_there = NO_TOKEN not in token_ids and not any(self.failures)
        is_more_asked = self.logprobs.columns or self.scores.columns
        return is_each_asked and is_each_there and not is_more_asked


def _sampled(
    token_id: int, logprobs: TokenLogprobs | None, failure: TandemError | None
) -> SampledToken:
    if failure is not None:
        return SampledToken(failure=failure)
    if token_id == NO_TOKEN:
        return SampledToken(failure=TandemError(NOT_FINITE))
    return SampledToken(token_id, logprobs)
