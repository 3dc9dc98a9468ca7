"""A decoder's step on a GPU.

Steps of single tokens, whose kernels are over sooner than the host can launch the next, are
replayed from CUDA graphs (`decode_graph`); all others are launched kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.core.kv import Plane
from tandem.core.plan import StepPlan
from tandem.engine.protocols import LayerHook
from tandem.engine.torch.decode_graph import DecodeGraphs
from tandem.engine.torch.gpu_inputs import GpuInputs
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_attention import QueryTiles, attend
from tandem.models.decoder import Decoder


class GpuRunner:
    """A `Runner` by torch's operations and Triton's attention."""

    def __init__(
        self,
        config: ModelConfig,
        decoder: Decoder,
        pool: TorchKVPool,
        device: torch.device,
        max_model_len: int,
    ) -> None:
        self._config = config
        self._decoder = decoder
        self._pool = pool
        self._device = device
        self._group = config.num_heads // config.num_kv_heads
        self._graphs = DecodeGraphs(self._decode, pool, device, max_model_len)

    def logits(self, plan: StepPlan, on_layer: LayerHook | None) -> Tensor:
        if on_layer is None and self._graphs.can_replay(plan):
            return self._graphs.replay(plan)
        inputs = GpuInputs.build(plan, self._pool.layout.block_size, self._group, self._device)
        attention = GpuAttention(
            self._pool, inputs.slots, inputs.tiles, self._config.windows, on_layer
        )
        hidden = self._decoder.hidden(inputs.token_ids, inputs.positions, attention)
        return self._decoder.logits(hidden[inputs.logit_rows])

    def _decode(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, tiles: QueryTiles
    ) -> Tensor:
        attention = GpuAttention(self._pool, slots, (tiles,), self._config.windows, None)
        return self._decoder.logits(self._decoder.hidden(token_ids, positions, attention))


class GpuAttention:
    """The `Attention` of one step."""

    def __init__(
        self,
        pool: TorchKVPool,
        slots: Tensor,
        tiles: Sequence[QueryTiles],
        windows: Sequence[int | None],
        on_layer: LayerHook | None,
    ) -> None:
        """`windows` has one of each layer, as in `ModelConfig`."""
        self._pool = pool
        self._slots = slots
        self._tiles = tiles
        self._windows = windows
        self._on_layer = on_layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._pool.layer(Plane.KEY, layer), self._pool.layer(Plane.VALUE, layer)
        keys.flatten(0, 1).index_copy_(0, self._slots, k)
        values.flatten(0, 1).index_copy_(0, self._slots, v)
        if self._on_layer is not None:
            self._pool.stored(layer)
            self._on_layer(layer)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for tiles in self._tiles:
            attend(q, keys, values, tiles, self._windows[layer], out)
        return out
