"""The decoder of the Llama family on a GPU: matrix products by torch, the rest by few kernels; or,
of few rows, also the products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.core.kv import Plane
from tandem.engine.protocols import LayerHook
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_attention import QueryTiles, attend
from tandem.engine.torch.triton_layers import (
    add_rms_norm,
    embed,
    rotate_and_store,
    silu_and_mul,
)
from tandem.engine.torch.triton_products import FewRows
from tandem.engine.torch.triton_token_attention import TokenAttention
from tandem.models.layers import Linear
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import DecoderWeights, LayerWeights


@dataclass(frozen=True, slots=True)
class AskedRows:
    """The int32 `rows` of a step that have logits somebody asks for, and the tiles of their
    queries, in which they are rows of their own."""

    rows: Tensor
    tiles: Sequence[QueryTiles]


@dataclass(frozen=True, slots=True)
class GpuRows:
    """What a step's rows are: int32 `token_ids` (those below 0 as in `triton_layers.embed`),
    `positions` and `slots` (places of their KV in the pool, `block * block_size + offset`), each
    [rows], and the tiles of their queries. Those that are `asked`, None for all, are all with which
    the last layer goes on once it has everyone's KV."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    tiles: Sequence[QueryTiles]
    asked: AskedRows | None = None


class GpuDecoder:
    """Maps a step's rows to logits, and stores their KV in the pool."""

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights[Linear],
        rotary: RotaryEmbedding,
        pool: TorchKVPool,
    ) -> None:
        self._config = config
        self._weights = weights
        self._rotary = rotary
        self._pool = pool

    @property
    def dtype(self) -> torch.dtype:
        return self._weights.embedding.weight.dtype

    def logits(self, rows: GpuRows, last_tokens: Tensor, out: Tensor) -> Tensor:
        """Logits [rows, vocab_size], in `out`; the rest as in `residuals`."""
        normed = self._normed(*self.residuals(rows, last_tokens))
        return torch.mm(normed, self._weights.lm_head.weight.T, out=out)

    def residuals(
        self, rows: GpuRows, last_tokens: Tensor, on_layer: LayerHook | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream [asked rows, hidden_size] behind the layers, and what the last one is
        yet to add to it. `last_tokens` as in `triton_layers.embed`, `on_layer` as in
        `Runner.logits`."""
        weights, eps = self._weights, self._config.rms_norm_eps
        hidden = embed(rows.token_ids, last_tokens, weights.embedding.weight)
        delta: Tensor | None = None
        for index, layer in enumerate(weights.layers):
            normed = add_rms_norm(hidden, delta, layer.attention_norm, eps)
            asked = rows.asked if index == len(weights.layers) - 1 else None
            if asked is not None:
                hidden = hidden[asked.rows]
            qkv = layer.qkv(normed)
            delta = layer.output(self._attend(index, layer, qkv, rows, on_layer, asked))
            normed = add_rms_norm(hidden, delta, layer.mlp_norm, eps)
            delta = layer.down(silu_and_mul(layer.gate_up(normed)))
        return hidden, delta

    def head(
        self, hidden: Tensor, delta: Tensor | None, logit_rows: Tensor | None = None
    ) -> Tensor:
        """Logits of what `residuals` gives, which changes unless only those of `logit_rows` are
        wanted."""
        if logit_rows is not None:
            hidden = hidden[logit_rows]
            delta = delta[logit_rows] if delta is not None else None
        return self._weights.lm_head(self._normed(hidden, delta))

    def _normed(self, hidden: Tensor, delta: Tensor | None) -> Tensor:
        return add_rms_norm(hidden, delta, self._weights.final_norm, self._config.rms_norm_eps)

    def few_logits(
        self,
        rows: GpuRows,
        last_tokens: Tensor,
        products: FewRows,
        attention: TokenAttention | None,
        out: Tensor,
    ) -> Tensor:
        """Likewise of all rows, single tokens, of which `FewRows` takes so many, in `out`; without
        `attention` by the kernels that `logits` has."""
        weights, eps = self._weights, self._config.rms_norm_eps
        layers = weights.layers
        embedding, first_norm = weights.embedding.weight, layers[0].attention_norm
        residual = products.embedded(rows.token_ids, last_tokens, embedding, first_norm, eps)
        norms = [*(each.attention_norm for each in layers[1:]), weights.final_norm]
        for index, (layer, next_norm) in enumerate(zip(layers, norms, strict=True)):
            qkv = products.normed(residual, layer.qkv)
            attended = self._attend_few(index, layer, qkv, rows, attention, products.is_chained)
            products.add(attended, layer.output, residual, layer.mlp_norm)
            products.add(products.gated(residual, layer.gate_up), layer.down, residual, next_norm)
        return products.normed(residual, weights.lm_head, out)

    def _attend_few(
        self,
        index: int,
        layer: LayerWeights[Linear],
        qkv: Tensor,
        rows: GpuRows,
        attention: TokenAttention | None,
        is_chained: bool,
    ) -> Tensor:
        if attention is None:
            return self._attend(index, layer, qkv, rows, is_chained=is_chained)
        config, pool = self._config, self._pool
        return attention.attend(
            *(qkv, (self._rotary.cosines, self._rotary.sines), rows),
            *(layer.qk_norm, config.rms_norm_eps),
            *(pool.layer(Plane.KEY, index), pool.layer(Plane.VALUE, index)),
            config.windows[index],
            is_chained=is_chained,
        )

    def _attend(
        self,
        index: int,
        layer: LayerWeights[Linear],
        qkv: Tensor,
        rows: GpuRows,
        on_layer: LayerHook | None = None,
        asked: AskedRows | None = None,
        *,
        is_chained: bool = False,
    ) -> Tensor:
        """`qkv` [rows, (num_heads + 2 num_kv_heads) * head_dim] -> [rows, num_heads * head_dim], or
        of the rows `asked` alone. `is_chained` as in `triton_chain`."""
        config, pool = self._config, self._pool
        keys, values = pool.layer(Plane.KEY, index), pool.layer(Plane.VALUE, index)
        qkv = qkv.view(len(qkv), -1, config.head_dim)
        tables = self._rotary.cosines, self._rotary.sines
        rotate_and_store(
            *(qkv, tables, rows.positions, rows.slots),
            *(layer.qk_norm, config.rms_norm_eps, keys, values),
            is_chained=is_chained,
        )
        if on_layer is not None:
            on_layer(index)
        q = qkv[:, : config.num_heads]
        if asked is not None:
            q = q[asked.rows]
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for tiles in rows.tiles if asked is None else asked.tiles:
            attend(q, keys, values, tiles, config.windows[index], out, is_chained=is_chained)
        return out.flatten(1)
