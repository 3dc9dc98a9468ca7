"""A decoder's weights, checked against the config and laid out for computing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.tensor_shapes import (
    EMBEDDING,
    FINAL_NORM,
    LM_HEAD,
    layer_name,
    tensor_shapes,
)
from tandem.models.checkpoint import Checkpoint
from tandem.models.layers import Linear

Reader = Callable[[str], Tensor]
# A projection, as what computes with it wants it.
L = TypeVar("L")
L_co = TypeVar("L_co", covariant=True)


class Packer(Protocol[L_co]):
    """Makes projections of what a checkpoint holds: weights [out, in], biases [out]."""

    def linear(self, weight: Tensor, bias: Tensor | None) -> L_co: ...

    def gated(self, gate: Linear, up: Linear) -> L_co:
        """A gate's projection and the one that it gates, in one."""
        ...

    def vocabulary(self, embedding: Tensor, lm_head: Tensor | None) -> tuple[L_co, L_co]:
        """Embeddings to look up, and the head, whose weights are theirs if it is None."""
        ...

    def vector(self, vector: Tensor) -> Tensor:
        """What is no projection: the weights of a norm."""
        ...


class PlainPacker:
    """For torch's own operations: side by side."""

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        return Linear(weight, bias)

    def gated(self, gate: Linear, up: Linear) -> Linear:
        biases = [each.bias for each in (gate, up) if each.bias is not None]
        return Linear(torch.cat([gate.weight, up.weight]), torch.cat(biases) if biases else None)

    def vocabulary(self, embedding: Tensor, lm_head: Tensor | None) -> tuple[Linear, Linear]:
        shared = Linear(embedding)
        return shared, shared if lm_head is None else Linear(lm_head)

    def vector(self, vector: Tensor) -> Tensor:
        return vector


@dataclass(frozen=True, slots=True)
class LayerWeights(Generic[L]):
    """One layer. `qkv` and `gate_up` are several projections in one: row-wise, the same bits.
    `qk_norm` is [num_heads + num_kv_heads, head_dim]."""

    attention_norm: Tensor
    qkv: L
    qk_norm: Tensor | None
    output: L
    mlp_norm: Tensor
    gate_up: L
    down: L


@dataclass(frozen=True, slots=True)
class DecoderWeights(Generic[L]):
    """All of them. `embedding` is [vocab_size, hidden_size], and `lm_head` as well when tied."""

    embedding: L
    layers: tuple[LayerWeights[L], ...]
    final_norm: Tensor
    lm_head: L


def load_weights(
    config: ModelConfig,
    files: Sequence[Path],
    dtype: torch.dtype,
    device: torch.device,
    packer: Packer[L],
) -> DecoderWeights[L]:
    """Read the weights, a projection at a time. Raises `ConfigError` naming the tensor that is
    missing, has the wrong shape, or has no use, and a head that is not the embedding that it is
    tied to."""
    with Checkpoint(files) as checkpoint:
        tied = {LM_HEAD: EMBEDDING} if config.tie_word_embeddings else {}
        checkpoint.check(tensor_shapes(config), tied)
        return _pack(config, partial(checkpoint.read, dtype=dtype, device=device), packer)


def check_shapes(config: ModelConfig, files: Sequence[Path]) -> None:
    """Raise what `load_weights` would of the tensors' shapes, before it is asked whether there is
    memory for what the config describes: perhaps it is another model's."""
    with Checkpoint(files) as checkpoint:
        checkpoint.check_shapes(tensor_shapes(config))


def repack_weights(config: ModelConfig, dtype: torch.dtype, packer: Packer[L]) -> DecoderWeights[L]:
    """What `load_weights` returns, from no files: its packer gets tensors of torch's `meta` device,
    which have a shape and nothing else, in the same order."""
    shapes = tensor_shapes(config)

    def read(name: str) -> Tensor:
        return torch.empty(shapes[name], dtype=dtype, device="meta")

    return _pack(config, read, packer)


def _pack(config: ModelConfig, read: Reader, packer: Packer[L]) -> DecoderWeights[L]:
    lm_head = None if config.tie_word_embeddings else read(LM_HEAD)
    embedding, head = packer.vocabulary(read(EMBEDDING), lm_head)
    layers = (_pack_layer(config, read, packer, i) for i in range(config.num_layers))
    return DecoderWeights(embedding, tuple(layers), packer.vector(read(FINAL_NORM)), head)


def _pack_layer(
    config: ModelConfig, read: Reader, packer: Packer[L], index: int
) -> LayerWeights[L]:
    def one(name: str) -> Tensor:
        return read(layer_name(index, name))

    def joined(template: str, names: tuple[str, ...], has_bias: bool) -> Linear:
        """The projections of `names`, one below the other."""

        def all_of(suffix: str) -> Tensor:
            return _joined([one(f"{template.format(name)}.{suffix}") for name in names])

        return Linear(all_of("weight"), all_of("bias") if has_bias else None)

    def packed(template: str, names: tuple[str, ...], has_bias: bool) -> L:
        linear = joined(template, names, has_bias)
        return packer.linear(linear.weight, linear.bias)

    gate, up = (joined("mlp.{}_proj", (name,), config.mlp_bias) for name in ("gate", "up"))
    return LayerWeights(
        attention_norm=packer.vector(one("input_layernorm.weight")),
        qkv=packed("self_attn.{}_proj", ("q", "k", "v"), config.qkv_bias),
        qk_norm=packer.vector(_qk_norm(config, one)) if config.qk_norm else None,
        output=packed("self_attn.{}_proj", ("o",), config.output_bias),
        mlp_norm=packer.vector(one("post_attention_layernorm.weight")),
        gate_up=packer.gated(gate, up),
        down=packed("mlp.{}_proj", ("down",), config.mlp_bias),
    )


def _qk_norm(config: ModelConfig, one: Reader) -> Tensor:
    q, k = one("self_attn.q_norm.weight"), one("self_attn.k_norm.weight")
    return _joined([q.expand(config.num_heads, -1), k.expand(config.num_kv_heads, -1)])


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.cat`, which for tensors of the `meta` device would import torch's compiler: a second,
    and 70 MiB."""
    first = tensors[0]
    if not first.is_meta:
        return torch.cat(list(tensors))
    return first.new_empty((sum(map(len, tensors)), *first.shape[1:]))
