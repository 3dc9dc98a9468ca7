"""Attention of a step's tokens over the paged KV cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tandem.core.kv import Plane
from tandem.engine.protocols import LayerHook
from tandem.engine.torch.inputs import KEY_TILE, AttentionBatch, StepInputs
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.models.layers import padded_rows


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """A batch with its masks [tiles, 1, query rows, num_keys], one for each size of window, added
    to the scores of the layers that have it; and which keys of the last key tile are `behind` the
    last query, [tiles, KEY_TILE]."""

    batch: AttentionBatch
    masks: Mapping[int | None, Tensor]
    behind: Tensor


class PagedAttention:
    """The `Attention` of one step, for a decoder of `num_heads` query heads.

    The query heads that share a KV head lie side by side in one matrix of query rows, so keys and
    values are never repeated, and a single token already fills most of the rows that
    `layers.ROW_MULTIPLE` asks for.
    """

    def __init__(
        self,
        pool: TorchKVPool,
        inputs: StepInputs,
        num_heads: int,
        windows: Sequence[int | None],
        on_layer: LayerHook | None,
    ) -> None:
        """`windows` has one of each layer, as in `ModelConfig`."""
        self._pool = pool
        self._slots = inputs.slots
        self._on_layer = on_layer
        self._group = num_heads // pool.layout.num_kv_heads
        self._windows = windows
        self._batches = self._masked(inputs.attention, set(windows))
        self._last_batches = self._batches
        if inputs.asked is not None:
            self._last_batches = self._masked(inputs.asked_attention, {windows[-1]})

    def _masked(
        self, batches: Sequence[AttentionBatch], windows: Collection[int | None]
    ) -> list[MaskedBatch]:
        return [
            MaskedBatch(
                each, {window: self._mask(each, window) for window in windows}, _behind(each)
            )
            for each in batches
        ]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._pool.layer(Plane.KEY, layer), self._pool.layer(Plane.VALUE, layer)
        num_tokens = len(self._slots)
        keys.flatten(0, 1).index_copy_(0, self._slots, k[:num_tokens])
        values.flatten(0, 1).index_copy_(0, self._slots, v[:num_tokens])
        if self._on_layer is not None:
            self._on_layer(layer)
        output = torch.zeros_like(q, memory_format=torch.contiguous_format)
        is_last = layer == len(self._windows) - 1
        for each in self._last_batches if is_last else self._batches:
            attended = self._attend_batch(each, self._windows[layer], q, keys, values)
            output.index_copy_(0, each.batch.rows, attended)
        return output

    def _attend_batch(
        self, masked: MaskedBatch, window: int | None, q: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """[tiles * num_queries, num_heads, head_dim]."""
        batch = masked.batch
        output = functional.scaled_dot_product_attention(
            self._gather_queries(batch, q),
            _gather(masked, keys),
            _gather(masked, values),
            attn_mask=masked.masks[window],
        )
        num_tiles, num_queries = batch.positions.shape
        output = output[:, :, : num_queries * self._group].transpose(1, 2)
        output = output.reshape(num_tiles, num_queries, self._group, -1, q.shape[-1])
        return output.transpose(2, 3).reshape(-1, *q.shape[1:])

    def _gather_queries(self, batch: AttentionBatch, q: Tensor) -> Tensor:
        """[tiles, num_kv_heads, query rows, head_dim], rows by token, then by head of the group."""
        num_tiles, num_queries = batch.positions.shape
        num_rows = num_queries * self._group
        q = q.index_select(0, batch.rows)
        q = q.view(num_tiles, num_queries, -1, self._group, q.shape[-1]).transpose(2, 3)
        q = q.reshape(num_tiles, num_rows, -1, q.shape[-1]).transpose(1, 2)
        return functional.pad(q, (0, 0, 0, padded_rows(num_rows) - num_rows))

    def _mask(self, batch: AttentionBatch, window: int | None) -> Tensor:
        """0 where a query sees a key, else -inf. The rows of padding see all."""
        num_tiles, num_queries = batch.positions.shape
        num_rows = num_queries * self._group
        keys = torch.arange(batch.num_keys, device=batch.positions.device)
        queries = batch.positions.repeat_interleave(self._group, dim=1).unsqueeze(-1)
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        mask = self._pool.layer(Plane.KEY, 0).new_zeros(
            num_tiles, 1, padded_rows(num_rows), batch.num_keys
        )
        mask[:, 0, :num_rows].masked_fill_(hidden, float("-inf"))
        return mask


def _behind(batch: AttentionBatch) -> Tensor:
    keys = torch.arange(batch.num_keys - KEY_TILE, batch.num_keys, device=batch.positions.device)
    return keys > batch.positions[:, -1:]


def _gather(masked: MaskedBatch, items: Tensor) -> Tensor:
    """Whole blocks of keys or values: [tiles, num_kv_heads, num_keys, head_dim]. What is behind the
    last query is 0, whatever the pool holds there: 0 times NaN would be NaN."""
    batch = masked.batch
    gathered = items.index_select(0, batch.blocks).view(-1, batch.num_keys, *items.shape[2:])
    gathered[:, -KEY_TILE:].masked_fill_(masked.behind[:, :, None, None], 0)
    return gathered.transpose(1, 2)
