"""A GGUF file of a tiny model, written as llama.cpp's converter writes one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

LAYERS, HEADS, KV_HEADS = 2, 4, 2
WORDS = ["<|end|>", "a", "b", "c", "Ġ", "ab", "1", "2", "<tool>", "12"]
TEMPLATE = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"


@dataclass(frozen=True)
class Sizes:
    hidden: int = 32
    inner: int = 64
    head_dim: int = 8


TINY = Sizes()
# Rows of whole blocks of every quantisation.
WIDE = Sizes(hidden=256, inner=256, head_dim=64)


def hugging_face_weights(
    kind: str = "llama", sizes: Sizes = TINY
) -> dict[str, NDArray[np.float32]]:
    """Random weights under the names that the import is to give them."""
    rng = np.random.default_rng(7)
    hidden, inner, head_dim = sizes.hidden, sizes.inner, sizes.head_dim

    def random(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    weights = {"model.embed_tokens.weight": random(len(WORDS), hidden)}
    weights["model.norm.weight"] = random(hidden)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}input_layernorm.weight": random(hidden),
            f"{prefix}post_attention_layernorm.weight": random(hidden),
            f"{prefix}self_attn.q_proj.weight": random(HEADS * head_dim, hidden),
            f"{prefix}self_attn.k_proj.weight": random(KV_HEADS * head_dim, hidden),
            f"{prefix}self_attn.v_proj.weight": random(KV_HEADS * head_dim, hidden),
            f"{prefix}self_attn.o_proj.weight": random(hidden, HEADS * head_dim),
            f"{prefix}mlp.gate_proj.weight": random(inner, hidden),
            f"{prefix}mlp.up_proj.weight": random(inner, hidden),
            f"{prefix}mlp.down_proj.weight": random(hidden, inner),
        }
        if kind == "qwen2":
            for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                weights[f"{prefix}self_attn.{name}_proj.bias"] = random(heads * head_dim)
        if kind == "qwen3":
            for name in "qk":
                weights[f"{prefix}self_attn.{name}_norm.weight"] = random(head_dim)
    return weights


def permute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp's `LlamaModel.permute`."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write(
    path: Path,
    kind: str = "llama",
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    drop: str = "",
    pre: str = "smollm",
    sizes: Sizes = TINY,
    words: Sequence[str] = WORDS,
    controls: Sequence[str] = ("<|end|>", "<|eot_id|>"),
    metadata: dict[str, int | str] | None = None,
    **extra: NDArray[np.float32],
) -> Path:
    """Matrices are quantised, or random blocks where the library only reads a quantisation."""
    writer = gguf.GGUFWriter(path, kind)
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_context_length(256)
    writer.add_embedding_length(sizes.hidden)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(sizes.inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(50_000.0)
    _add_tokenizer(writer, pre, words, controls)
    for name, weight in _gguf_weights(kind, sizes).items():
        if name == drop:
            continue
        if weight.ndim == 2:
            writer.add_tensor(name, _quantised(weight, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(name, weight)
    for name, weight in extra.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantised(weight: NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    try:
        return gguf.quants.quantize(weight, kind)
    except NotImplementedError:
        return _random_blocks(weight.shape, kind)


def _random_blocks(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> NDArray[np.uint8]:
    """Blocks of any bytes whose values are numbers."""
    rng = np.random.default_rng(len(shape) + shape[0])
    block_size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (math.prod(shape) // block_size, num_bytes), np.uint8)
    while len(bad := _not_numbers(blocks, kind)):
        blocks[bad] = rng.integers(0, 256, (len(bad), num_bytes), np.uint8)
    return blocks.reshape(shape[0], -1)


def _not_numbers(blocks: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> NDArray[np.intp]:
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(~np.isfinite(gguf.quants.dequantize(blocks, kind)).all(1))


def _gguf_weights(kind: str, sizes: Sizes) -> dict[str, NDArray[np.float32]]:
    architecture = getattr(gguf.MODEL_ARCH, kind.upper())
    names = gguf.get_tensor_name_map(architecture, LAYERS)
    weights = {}
    for name, weight in hugging_face_weights(kind, sizes).items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name
        if kind == "llama" and name.endswith("q_proj.weight"):
            weight = permute(weight, HEADS)  # noqa: PLW2901
        if kind == "llama" and name.endswith("k_proj.weight"):
            weight = permute(weight, KV_HEADS)  # noqa: PLW2901
        weights[gguf_name] = weight
    return weights


def _add_tokenizer(
    writer: gguf.GGUFWriter, pre: str, words: Sequence[str], controls: Sequence[str]
) -> None:
    control, plain, user = (
        gguf.TokenType.CONTROL,
        gguf.TokenType.NORMAL,
        gguf.TokenType.USER_DEFINED,
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    kinds = {**dict.fromkeys(controls, control), "<tool>": user}
    writer.add_token_types([kinds.get(word, plain) for word in words])
    writer.add_token_merges(["a b", "1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
