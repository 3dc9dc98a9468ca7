"""A decoder's step on a GPU.

Steps of single tokens, whose kernels are over sooner than the host can launch the next, are
replayed from CUDA graphs (`decode_graph`) on workers that decode; all others are launched kernel by
kernel.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.core.plan import PENDING, StepPlan
from tandem.engine.protocols import LayerHook
from tandem.engine.torch.decode_graph import DecodeGraphs, Way
from tandem.engine.torch.gpu_decoder import GpuDecoder
from tandem.engine.torch.gpu_inputs import GpuInputs
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_products import (
    DEEP,
    MAX_ROWS,
    MIN_ROWS,
    NARROW,
    WIDE,
    FewRows,
    Tiling,
    takes_few_rows,
)
from tandem.engine.torch.triton_token_attention import TokenAttention
from tandem.engine.torch.uploads import upload

# More sequences than any step samples for.
MAX_PENDING = 1 << 16


class GpuRunner:
    """An `AheadRunner` by torch's matrix products and Triton's kernels."""

    def __init__(
        self,
        config: ModelConfig,
        decoder: GpuDecoder,
        pool: TorchKVPool,
        device: torch.device,
        max_model_len: int,
        decodes: bool,
    ) -> None:
        """`decodes`: whether steps of single tokens are recorded."""
        self._decoder = decoder
        self._block_size = pool.layout.block_size
        self._device = device
        self._num_kv_heads = config.num_kv_heads
        self._group = config.num_heads // config.num_kv_heads
        # What the step before has sampled, and in which row each sequence's token is.
        self._last_tokens = torch.zeros(MAX_PENDING, dtype=torch.int64, device=device)
        self._last_rows: dict[int, int] = {}
        # What `GpuDecoder.residuals` has given, if somebody asks for scores.
        self._residuals: tuple[Tensor, Tensor | None] | None = None
        self.graphs: DecodeGraphs | None = None
        if decodes:
            self.graphs = DecodeGraphs(
                self._ways(), pool, device, max_model_len, config.vocab_size, decoder.dtype
            )

    def _ways(self) -> list[Way]:
        """To compute single tokens; the first one is trusted."""
        decoder, last_tokens = self._decoder, self._last_tokens
        library = Way("library", lambda rows, logits: decoder.logits(rows, last_tokens, out=logits))
        if not takes_few_rows(decoder.dtype, self._device):
            return [library]
        attention = TokenAttention(self._device, MAX_ROWS, self._num_kv_heads)

        def by(
            name: str,
            tiling: Tiling,
            attention: TokenAttention | None = attention,
            more_than: int = 0,
            max_rows: int = MAX_ROWS,
        ) -> Way:
            products = FewRows(self._device, tiling)
            return Way(
                name,
                lambda rows, logits: decoder.few_logits(
                    rows, last_tokens, products, attention, logits
                ),
                more_than,
                max_rows,
            )

        return [
            library,
            by("wide tiles", WIDE),
            by("narrow tiles", NARROW, max_rows=MIN_ROWS),
            by("deep tiles", DEEP, more_than=MIN_ROWS),
            by("wide tiles, attention in three", WIDE, None),
        ]

    @property
    def pending(self) -> Collection[int]:
        return self._last_rows.keys()

    def sampled(self, plan: StepPlan, token_ids: Tensor) -> None:
        self._last_tokens[: len(token_ids)].copy_(token_ids)
        asked = (each.sequence_id for each in plan.slices if each.sample is not None)
        self._last_rows = {sequence_id: row for row, sequence_id in enumerate(asked)}

    def logits(self, plan: StepPlan, on_layer: LayerHook | None) -> Tensor:
        self._residuals = None
        has_scores = plan.has_scores
        if self.graphs and on_layer is None and not has_scores and self.graphs.can_replay(plan):
            return self.graphs.replay(plan, self._last_rows)
        inputs = GpuInputs.build(self._with_rows(plan), self._block_size, self._group, self._device)
        residuals = self._decoder.residuals(inputs.rows, self._last_tokens, on_layer)
        if has_scores:
            self._residuals = residuals
        return self._decoder.head(*residuals, inputs.logit_rows)

    def logits_of(self, rows: NDArray[np.int64]) -> Tensor:
        assert self._residuals is not None, "nobody asks for scores"
        return self._decoder.head(*self._residuals, upload(torch.from_numpy(rows), self._device))

    def _with_rows(self, plan: StepPlan) -> StepPlan:
        """The plan with `PENDING` tokens as `triton_layers.embed` takes them."""
        slices = (
            each._replace(token_ids=(-1 - self._last_rows[each.sequence_id],))
            if each.token_ids == (PENDING,)
            else each
            for each in plan.slices
        )
        return replace(plan, slices=tuple(slices))
