"""A GGUF file of a tiny model, written as llama.cpp's converter writes one."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER = 2, 4, 2, 8, 32, 64
WORDS = ["<|end|>", "a", "b", "c", "Ġ", "ab", "1", "2", "<tool>", "12"]
TEMPLATE = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"


def hugging_face_weights(kind: str = "llama") -> dict[str, NDArray[np.float32]]:
    """Random weights under the names that the import is to give them."""
    rng = np.random.default_rng(7)

    def random(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    weights = {"model.embed_tokens.weight": random(len(WORDS), HIDDEN)}
    weights["model.norm.weight"] = random(HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}input_layernorm.weight": random(HIDDEN),
            f"{prefix}post_attention_layernorm.weight": random(HIDDEN),
            f"{prefix}self_attn.q_proj.weight": random(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": random(HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}mlp.gate_proj.weight": random(INNER, HIDDEN),
            f"{prefix}mlp.up_proj.weight": random(INNER, HIDDEN),
            f"{prefix}mlp.down_proj.weight": random(HIDDEN, INNER),
        }
        if kind == "qwen2":
            for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                weights[f"{prefix}self_attn.{name}_proj.bias"] = random(heads * HEAD_DIM)
        if kind == "qwen3":
            for name in "qk":
                weights[f"{prefix}self_attn.{name}_norm.weight"] = random(HEAD_DIM)
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
    **extra: NDArray[np.float32],
) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(50_000.0)
    _add_tokenizer(writer, pre)
    for name, weight in _gguf_weights(kind).items():
        if name == drop:
            continue
        if weight.ndim == 2:
            data = gguf.quants.quantize(weight, quantisation)
            writer.add_tensor(name, data, raw_dtype=quantisation)
        else:
            writer.add_tensor(name, weight)
    for name, weight in extra.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_weights(kind: str) -> dict[str, NDArray[np.float32]]:
    architecture = getattr(gguf.MODEL_ARCH, kind.upper())
    names = gguf.get_tensor_name_map(architecture, LAYERS)
    weights = {}
    for name, weight in hugging_face_weights(kind).items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name
        if kind == "llama" and name.endswith("q_proj.weight"):
            weight = permute(weight, HEADS)  # noqa: PLW2901
        if kind == "llama" and name.endswith("k_proj.weight"):
            weight = permute(weight, KV_HEADS)  # noqa: PLW2901
        weights[gguf_name] = weight
    return weights


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    control, plain, user = (
        gguf.TokenType.CONTROL,
        gguf.TokenType.NORMAL,
        gguf.TokenType.USER_DEFINED,
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(WORDS)
    kinds = {"<|end|>": control, "<tool>": user}
    writer.add_token_types([kinds.get(word, plain) for word in WORDS])
    writer.add_token_merges(["a b", "1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
