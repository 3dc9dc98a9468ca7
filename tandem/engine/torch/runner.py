"""From a plan to logits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.core.plan import StepPlan
from tandem.engine.protocols import LayerHook
from tandem.engine.torch.attention import PagedAttention
from tandem.engine.torch.inputs import StepInputs, padded_array
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.uploads import upload
from tandem.models.decoder import Decoder


class Runner(Protocol):
    """Computes steps, with a model and a pool of its own."""

    def logits(self, plan: StepPlan, on_layer: LayerHook | None) -> Tensor:
        """Compute the KV of a step that has tokens, and logits [slices that sample, vocab_size] in
        the plan's order, valid until the next call: in float32, or on a GPU in what the model is
        computed in. `on_layer` is called with each layer, in order, once all is launched that
        stores the KV of it."""
        ...

    def logits_of(self, rows: NDArray[np.int64]) -> Tensor:
        """Likewise for the step that was just computed, in which somebody asks for scores. `rows`
        are places among its tokens that have logits (`SequenceSlice.num_logits`), slice by slice;
        at most `token_logprobs.MAX_ROWS`."""
        ...


@runtime_checkable
class AheadRunner(Runner, Protocol):
    """A runner whose steps may be launched before the tokens of the one before are known."""

    def sampled(self, plan: StepPlan, token_ids: Tensor) -> None:
        """What the slices of a plan that sample have got, int64, perhaps still on the device:
        `PENDING` stands for it in the plan that comes next."""
        ...

    @property
    def pending(self) -> Collection[int]:
        """The sequences that may be `PENDING` in the next plan."""
        ...


class TorchRunner:
    """By torch's own operations, on any device."""

    def __init__(
        self, config: ModelConfig, decoder: Decoder, pool: TorchKVPool, device: torch.device
    ) -> None:
        self._config = config
        self._decoder = decoder
        self._pool = pool
        self._device = device
        self._hidden: Tensor | None = None

    def logits(self, plan: StepPlan, on_layer: LayerHook | None) -> Tensor:
        inputs = StepInputs.build(plan, self._pool.layout.block_size, self._device)
        attention = PagedAttention(
            self._pool, inputs, self._config.num_heads, self._config.windows, on_layer
        )
        hidden = self._decoder.hidden(inputs.token_ids, inputs.positions, attention, inputs.asked)
        self._hidden = hidden if plan.has_scores else None
        logits = self._decoder.logits(hidden[inputs.logit_rows])
        return logits[: sum(each.sample is not None for each in plan.slices)]

    def logits_of(self, rows: NDArray[np.int64]) -> Tensor:
        assert self._hidden is not None, "nobody asks for scores"
        padded = upload(torch.from_numpy(padded_array(rows)), self._device)
        return self._decoder.logits(self._hidden[padded])[: len(rows)]
