"""A decoder as the native kernels see it: packed weights, tables, and the KV pool."""

from __future__ import annotations

import ctypes

from tandem.artifacts.config import ModelConfig
from tandem.core.kv import INT8, Plane
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.packed_weights import PackedLinear
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import DecoderWeights, LayerWeights
from tandem.native import structs


class PackedModel:
    """The kernels' `Model`, and all that it points to."""

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights[PackedLinear],
        rotary: RotaryEmbedding,
        pool: TorchKVPool,
        *,
        by_tiles: bool,
    ) -> None:
        self._kept = (weights, rotary, pool)
        layers = [
            self._layer(layer, config.windows[index], pool, index)
            for index, layer in enumerate(weights.layers)
        ]
        self.layers = (structs.Layer * len(layers))(*layers)
        self.embedding = weights.embedding.struct()
        self.struct = structs.Model(
            hidden_size=config.hidden_size,
            inner_size=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=pool.layout.block_size,
            eps=config.rms_norm_eps,
            cosines=rotary.cosines.data_ptr(),
            sines=rotary.sines.data_ptr(),
            final_norm=weights.final_norm.data_ptr(),
            lm_head=weights.lm_head.struct(),
            layers=ctypes.addressof(self.layers),
            has_int8_kv=pool.layout.dtype == INT8,
            by_tiles=by_tiles,
        )

    @staticmethod
    def _layer(
        layer: LayerWeights[PackedLinear], window: int | None, pool: TorchKVPool, index: int
    ) -> structs.Layer:
        return structs.Layer(
            attention_norm=layer.attention_norm.data_ptr(),
            qk_norm=None if layer.qk_norm is None else layer.qk_norm.data_ptr(),
            mlp_norm=layer.mlp_norm.data_ptr(),
            qkv=layer.qkv.struct(),
            output=layer.output.struct(),
            gate_up=layer.gate_up.struct(),
            down=layer.down.struct(),
            window=window or 0,
            keys=pool.layer(Plane.KEY, index).data_ptr(),
            values=pool.layer(Plane.VALUE, index).data_ptr(),
        )
