"""An `Engine` that needs no model and no device.

A step writes the KV of its tokens to the pool and samples from what it reads back (`content` says
what, `verifier` how much); it takes as long as the profile says, on the clock of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import ConfigError, InvalidRequest, TandemError
from tandem.core.plan import PENDING, SampleSpec, StepPlan, StepResult
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import Allowed, AllowedTokens
from tandem.engine.fake.candidates import candidates, prompt_logprobs, token_logprobs
from tandem.engine.fake.checks import check_plan
from tandem.engine.fake.clock import Clock, RealClock, wait_until
from tandem.engine.fake.content import NUM_LAYERS, choose_token, items
from tandem.engine.fake.link import VirtualLink
from tandem.engine.fake.paging import Span, locate
from tandem.engine.fake.pool import FakeKVPool
from tandem.engine.fake.profile import Profile
from tandem.engine.fake.verifier import Verification, Verifier
from tandem.engine.protocols import LayerHook, ModelInfo
from tandem.engine.sampled_token import SampledToken, step_result


@dataclass(frozen=True, slots=True)
class FakeStep:
    """A step whose result is known, and handed out when its modelled time is over."""

    done_at: float
    outcome: StepResult
    clock: Clock

    def result(self) -> StepResult:
        wait_until(self.clock, self.done_at)
        return self.outcome


class FakeEngine:
    """Runs one step after the other: a step starts at its launch or at the end of the one before,
    whichever is later."""

    def __init__(
        self,
        model: ModelInfo,
        *,
        profile: Profile,
        block_size: int,
        num_blocks: int,
        output_token_ids: tuple[int, int],
        verify: Verification = "full",
        clock: Clock | None = None,
        open_tokenizer: Callable[[], Tokenizer] | None = None,
        runs_ahead: bool = False,
    ) -> None:
        """`output_token_ids` is the half-open range of tokens that it may sample; `verify` says how
        much of the context a step reads (see `Verifier`); `open_tokenizer` is called by `warm_up`,
        or when the first grammar comes. Raises `ConfigError` if the range is
        empty or not within the vocabulary."""
        low, high = output_token_ids
        if not 0 <= low < high <= model.vocab_size:
            raise ConfigError(
                f"output tokens [{low}, {high}) are no range of a vocabulary of {model.vocab_size}"
            )
        self._model = model
        self._profile = profile
        self._output_token_ids = output_token_ids
        self._clock = clock or RealClock()
        self._pool = FakeKVPool(
            block_size,
            num_blocks,
            link=VirtualLink(self._clock),
            token_layer_s=profile.token_layer_s(NUM_LAYERS),
        )
        self._verifier = Verifier(self._pool, model.max_model_len, verify)
        self._allowed = AllowedTokens(model, open_tokenizer or _no_tokenizer)
        self._free_at = 0.0
        self._runs_ahead = runs_ahead
        # What the step before has sampled, by sequence.
        self._last_tokens: dict[int, int] = {}

    @property
    def model(self) -> ModelInfo:
        return self._model

    @property
    def pool(self) -> FakeKVPool:
        return self._pool

    @property
    def runs_ahead(self) -> bool:
        return self._runs_ahead

    def launch(self, plan: StepPlan, on_layer: LayerHook | None = None) -> FakeStep:
        """Run a step. With `on_layer` it takes the step's modelled time, for a layer's KV is in the
        pool no sooner than that layer is due; otherwise `result` takes it.

        Raises `TandemError` if the plan breaks the seam's contract.
        """
        start = max(self._clock.now(), self._free_at)
        if self._runs_ahead:
            plan = self._with_last_tokens(plan)
        check_plan(
            plan,
            block_size=self._pool.layout.block_size,
            max_model_len=self._model.max_model_len,
            vocab_size=self._model.vocab_size,
        )
        self._free_at = start + self._profile.step_s(plan)
        allowed = self._allowed.start(plan)
        self._compute(plan, start, on_layer)
        outcome = self._sample(plan, allowed())
        if self._runs_ahead:
            sampled = zip(plan.slices, outcome.tokens, strict=True)
            self._last_tokens = {
                each.sequence_id: token for each, token in sampled if token is not None
            }
        return FakeStep(self._free_at, outcome, self._clock)

    def warm_up(self) -> None:
        self._allowed.warm_up()

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        self._allowed.prepare(sequence_id, params)

    def use_idle_time(self) -> bool:
        return False

    def is_lost(self) -> bool:
        """It has no device to lose."""
        return False

    def close(self) -> None:
        """End its threads."""
        self._allowed.close()

    def _with_last_tokens(self, plan: StepPlan) -> StepPlan:
        """The plan with what its `PENDING` stand for. Those of sequences that the step before had
        not are left, and refused."""
        last = self._last_tokens
        slices = (
            each._replace(token_ids=(last.get(each.sequence_id, PENDING),))
            if each.token_ids == (PENDING,)
            else each
            for each in plan.slices
        )
        return replace(plan, slices=tuple(slices))

    def _compute(self, plan: StepPlan, start: float, on_layer: LayerHook | None) -> None:
        """Write the KV of the plan's tokens, layer by layer."""
        new = locate(
            [Span(each.start, each.end, each.block_table) for each in plan.slices],
            self._pool.layout.block_size,
        )
        self._pool.check_slots(new.slots)
        kv = items(_token_ids(plan), new.positions)
        layer_s = (self._free_at - start) / NUM_LAYERS
        for layer in range(NUM_LAYERS):
            if on_layer:
                wait_until(self._clock, start + (layer + 1) * layer_s)
            self._pool.scatter(layer, new.slots, kv[:, layer])
            if on_layer:
                on_layer(layer)

    def _sample(self, plan: StepPlan, allowed: Sequence[Allowed | TandemError]) -> StepResult:
        asked = [each for each in plan.slices if each.sample]
        rows = zip(asked, self._verifier.digests(asked), allowed, strict=True)
        outputs = self._output_token_ids
        return step_result(
            plan,
            [
                self._sample_slice(each.sample, each.end, digest, may)
                for each, digest, may in rows
                if each.sample
            ],
            [prompt_logprobs(outputs, each.score) for each in plan.slices if each.score],
        )

    def _sample_slice(
        self, spec: SampleSpec, position: int, digest: int, allowed: Allowed | TandemError
    ) -> SampledToken:
        if isinstance(allowed, TandemError):
            return SampledToken(failure=allowed)
        params, outputs = spec.params, self._output_token_ids
        chosen_from = candidates(outputs, params, allowed, self._model.eos_token_ids)
        token_id = choose_token(digest, params, spec.choice_index, position, chosen_from)
        if params.logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprobs(outputs, token_id, params.logprobs))


def _no_tokenizer() -> Tokenizer:
    raise InvalidRequest("this engine was made without a tokenizer", param="grammar")


def _token_ids(plan: StepPlan) -> NDArray[np.int64]:
    return np.fromiter((token for each in plan.slices for token in each.token_ids), np.int64)
