"""A step under way on the device, and what is handed out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.core.errors import TandemError
from tandem.core.plan import StepPlan, StepResult
from tandem.engine.sampled_token import SampledToken, step_result
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.sample_row import NO_TOKEN
from tandem.engine.torch.token_logprobs import RowLogprobs

NOT_FINITE = "the model's output for this token is not finite: no token can be sampled from it"


class HostTokens:
    """Tokens on their way from the device: behind what computes them, and before anything that is
    launched later."""

    def __init__(self, sampled: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        self._tokens = sampled
        if sampled.is_cuda:
            self._tokens = torch.empty(sampled.shape, dtype=sampled.dtype, pin_memory=True)
            self._tokens.copy_(sampled, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()

    def wait(self) -> list[int]:
        if self._ready is not None:
            self._ready.synchronize()
        return self._tokens.tolist()


@dataclass(frozen=True, slots=True)
class TorchStepHandle:
    """A step whose tokens may still be on the device; `result` waits for them.

    The columns have an entry for each slice that samples: its token (or `NO_TOKEN`), its
    log-probabilities if they are asked for, and why there is no token, if that is known already.
    """

    plan: StepPlan
    sampled: HostTokens
    logprobs: Sequence[RowLogprobs | None]
    failures: Sequence[TandemError | None]
    pool: TorchKVPool

    def result(self) -> StepResult:
        token_ids = self.sampled.wait()
        self._clear_broken(token_ids)
        rows = zip(token_ids, self.logprobs, self.failures, strict=True)
        return step_result(self.plan, (_sampled(*row) for row in rows))

    def _clear_broken(self, token_ids: Sequence[int]) -> None:
        """What came out as no number may have left no numbers in its KV, whose blocks are others'
        soon. Those that are others' already have given numbers, and so have those before a
        generated token's; but not all of a prompt that was computed in chunks."""
        if NO_TOKEN in token_ids:
            asked = (each for each in self.plan.slices if each.sample is not None)
            for each, token_id in zip(asked, token_ids, strict=True):
                if token_id == NO_TOKEN:
                    # More may be shared by now than when the step was launched.
                    first = each.num_shared_blocks
                    if each.sample and each.sample.token_ids and len(each.token_ids) == 1:
                        first = max(first, each.start // self.pool.layout.block_size)
                    self.pool.clear(each.block_table[first:])


def _sampled(
    token_id: int, logprobs: RowLogprobs | None, failure: TandemError | None
) -> SampledToken:
    if failure is not None:
        return SampledToken(failure=failure)
    if token_id == NO_TOKEN:
        return SampledToken(failure=TandemError(NOT_FINITE))
    return SampledToken(token_id, logprobs.report() if logprobs is not None else None)
