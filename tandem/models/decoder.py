"""The decoder of the Llama family: Llama 2 and 3, Mistral, Qwen 2 and 3, SmolLM2."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn import functional

from tandem.artifacts.config import ModelConfig
from tandem.models.layers import Linear, rms_norm, silu_and_mul
from tandem.models.rope import RotaryEmbedding, rotate
from tandem.models.weights import DecoderWeights, LayerWeights


class Attention(Protocol):
    """Where the decoder's tokens meet: everything else treats each row by itself."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Cache `k` and `v` [rows, num_kv_heads, head_dim], and let `q` [rows, num_heads, head_dim]
        attend to its sequence's cache: in the last layer the rows that are asked for. Returns
        [rows, num_heads, head_dim]."""
        ...


class Decoder:
    """Maps tokens at their positions to logits. Rows of one call may belong to any sequences; their
    number must be a multiple of `layers.ROW_MULTIPLE`."""

    def __init__(
        self, config: ModelConfig, weights: DecoderWeights[Linear], rotary: RotaryEmbedding
    ) -> None:
        self._config = config
        self._weights = weights
        self._rotary = rotary

    def hidden(
        self, token_ids: Tensor, positions: Tensor, attention: Attention, asked: Tensor | None
    ) -> Tensor:
        """The last layer's output [asked, hidden_size] for the rows `asked` of `token_ids` [rows],
        None for all: nobody looks at the others behind the KV of that layer."""
        rotations = self._rotary.rotations(positions)
        hidden = functional.embedding(token_ids, self._weights.embedding.weight)
        last = len(self._weights.layers) - 1
        for index, layer in enumerate(self._weights.layers):
            rows = asked if index == last else None
            attended = self._attend(index, layer, hidden, rotations, attention, rows)
            hidden = (hidden if rows is None else hidden[rows]) + attended
            hidden = hidden + self._mlp(layer, hidden)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, vocab_size] float32."""
        return self._weights.lm_head(self._norm(hidden, self._weights.final_norm)).float()

    def _attend(
        self,
        index: int,
        layer: LayerWeights[Linear],
        hidden: Tensor,
        rotations: tuple[Tensor, Tensor],
        attention: Attention,
        asked: Tensor | None,
    ) -> Tensor:
        qkv = layer.qkv(self._norm(hidden, layer.attention_norm))
        qkv = qkv.view(len(hidden), -1, self._config.head_dim)
        num_heads = self._config.num_heads
        num_rotated = num_heads + self._config.num_kv_heads
        qk, v = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if layer.qk_norm is not None:
            qk = self._norm(qk, layer.qk_norm)
        qk = rotate(qk, rotations)
        q, k = qk[:, :num_heads], qk[:, num_heads:]
        output = attention.attend(index, q if asked is None else q[asked], k, v)
        return layer.output(output.flatten(1))

    def _mlp(self, layer: LayerWeights[Linear], hidden: Tensor) -> Tensor:
        return layer.down(silu_and_mul(layer.gate_up(self._norm(hidden, layer.mlp_norm))))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, self._config.rms_norm_eps, weight)
