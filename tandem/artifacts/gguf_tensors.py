"""A GGUF file's tensors as Hugging Face's: names, order of rows, bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gguf import ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from tandem.artifacts.bfloat16 import to_bfloat16
from tandem.artifacts.config import ModelConfig
from tandem.artifacts.gguf_file import GgufFile
from tandem.artifacts.gguf_rope import FREQUENCY_FACTORS
from tandem.artifacts.progress import ProgressCallback
from tandem.core.errors import ConfigError

# Elements dequantised at once: 64 MB of float32.
CHUNK_ELEMENTS = 16 * 1024 * 1024


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its GGUF name, with the shape that Hugging Face gives it."""
    hidden, vocab = config.hidden_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, hidden)}
    for layer in range(config.num_layers):
        for name, shape in _layer_shapes(config).items():
            shapes[f"blk.{layer}.{name}"] = shape
    shapes["output_norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["output.weight"] = (vocab, hidden)
    return shapes


def hugging_face_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, suffix = gguf_name.rpartition(".")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{suffix}"


OUTER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


# What GGUF calls `llama`.
PERMUTED = ("LlamaForCausalLM", "MistralForCausalLM")


def check_tensors(file: GgufFile, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `ConfigError` unless the file has these tensors and no others."""
    for name, shape in shapes.items():
        if name not in file.tensors:
            raise ConfigError(f"{file.path}: the tensor {name} is missing")
        # GGUF names the fastest dimension first.
        found = tuple(int(size) for size in reversed(file.tensors[name].shape))
        if found != shape:
            raise ConfigError(f"{file.path}: {name} has the shape {found}, expected {shape}")
    for name in file.tensors:
        if name not in shapes and name != FREQUENCY_FACTORS:
            raise ConfigError(
                f"{file.path}: the tensor {name!r:.80} belongs to a variant of the architecture"
                " that is not supported"
            )


def bfloat16_pieces(
    file: GgufFile, names: Mapping[str, object], config: ModelConfig, progress: ProgressCallback
) -> Iterator[NDArray[np.uint16]]:
    """The named tensors' values in order, in pieces of bounded size. Raises `ConfigError`."""
    for done, name in enumerate(names):
        progress("converting", done, len(names))
        tensor = file.tensors[name]
        for rows in _chunks(_in_order(tensor, config), tensor.n_elements):
            yield to_bfloat16(_dequantize(rows, tensor, file))
    progress("converting", len(names), len(names))


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (q_size, hidden),
        "attn_k.weight": (kv_size, hidden),
        "attn_v.weight": (kv_size, hidden),
        "attn_output.weight": (hidden, q_size),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if config.qkv_bias:
        shapes |= {"attn_q.bias": (q_size,), "attn_k.bias": (kv_size,), "attn_v.bias": (kv_size,)}
    if config.qk_norm:
        shapes |= {"attn_q_norm.weight": (config.head_dim,)}
        shapes |= {"attn_k_norm.weight": (config.head_dim,)}
    return shapes


def _in_order(tensor: ReaderTensor, config: ModelConfig) -> NDArray[Any]:
    """The tensor's rows, still quantised, in Hugging Face's order.

    GGUF's `llama` rotates neighbouring pairs of a head's rows, Hugging Face pairs the first half
    with the second; the converter had permuted the rows of q and k from the latter to the former.
    """
    if config.architecture not in PERMUTED:
        return tensor.data
    if tensor.name.endswith("attn_q.weight"):
        return _unpermute(tensor.data, config.num_heads)
    if tensor.name.endswith("attn_k.weight"):
        return _unpermute(tensor.data, config.num_kv_heads)
    return tensor.data


def _unpermute(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    pairs = rows.reshape(num_heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _chunks(rows: NDArray[Any], num_elements: int) -> Iterator[NDArray[Any]]:
    step = max(1, CHUNK_ELEMENTS * len(rows) // num_elements)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _dequantize(rows: NDArray[Any], tensor: ReaderTensor, file: GgufFile) -> NDArray[np.float32]:
    try:
        values = dequantize(rows, tensor.tensor_type)
    except NotImplementedError as error:
        kind = tensor.tensor_type.name
        raise ConfigError(f"{file.path}: quantisation {kind} is not supported") from error
    if not np.isfinite(values).all():
        raise ConfigError(
            f"{file.path}: {tensor.name} holds values that are no numbers: it is damaged"
        )
    return values
