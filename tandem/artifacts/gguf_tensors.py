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
from tandem.artifacts.tensor_shapes import Shape
from tandem.core.errors import ConfigError

# Elements dequantised at once: 64 MB of float32.
CHUNK_ELEMENTS = 16 * 1024 * 1024


# By Hugging Face's names, and those within a layer.
OUTER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The architecture whose rows of q and k are in another order.
PERMUTED = "llama"


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`."""
    stem, _, suffix = name.rpartition(".")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{suffix}"


def check_tensors(file: GgufFile, shapes: Mapping[str, Shape]) -> None:
    """Raise `ConfigError` unless the file has these tensors, by Hugging Face's names, and no
    others."""
    expected = {gguf_name(name): shape for name, shape in shapes.items()}
    for name, shape in expected.items():
        if name not in file.tensors:
            raise ConfigError(f"{file.path}: the tensor {name} is missing")
        # GGUF names the fastest dimension first.
        found = tuple(int(size) for size in reversed(file.tensors[name].shape))
        if found != shape:
            raise ConfigError(f"{file.path}: {name} has the shape {found}, expected {shape}")
    for name in file.tensors:
        if name not in expected and name != FREQUENCY_FACTORS:
            raise ConfigError(
                f"{file.path}: the tensor {name!r:.80} belongs to a variant of the architecture"
                " that is not supported"
            )


def bfloat16_pieces(
    file: GgufFile, names: Mapping[str, object], config: ModelConfig, progress: ProgressCallback
) -> Iterator[NDArray[np.uint16]]:
    """The values of tensors, by Hugging Face's names and in its order of rows, one after the other
    in pieces of bounded size. Raises `ConfigError`."""
    is_permuted = file.metadata.text("general.architecture") == PERMUTED
    for done, name in enumerate(names):
        progress("converting", done, len(names))
        tensor = file.tensors[gguf_name(name)]
        in_order = _in_order(tensor, config) if is_permuted else tensor.data
        for rows in _chunks(in_order, tensor.n_elements):
            yield to_bfloat16(_dequantize(rows, tensor, file))
    progress("converting", len(names), len(names))


def _in_order(tensor: ReaderTensor, config: ModelConfig) -> NDArray[Any]:
    """The rows, still quantised, of a tensor of GGUF's `llama`, in Hugging Face's order.

    It rotates neighbouring pairs of a head's rows, Hugging Face pairs the first half with the
    second; the converter had permuted the rows of q and k from the latter to the former.
    """
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
