"""A Hugging Face folder as the GGUF file that llama.cpp's converter makes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file


def write_gguf(folder: Path, path: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    kind = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, kind)
    _write_metadata(writer, config)
    _write_tokenizer(writer, config["vocab_size"])
    names = gguf.get_tensor_name_map(
        getattr(gguf.MODEL_ARCH, kind.upper()), config["num_hidden_layers"]
    )
    for name, weight in load_file(folder / "model.safetensors").items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name
        if kind == "llama" and "q_proj" in name:
            weight = _permute(weight, config["num_attention_heads"])  # noqa: PLW2901
        if kind == "llama" and "k_proj" in name:
            weight = _permute(weight, config["num_key_value_heads"])  # noqa: PLW2901
        writer.add_tensor(gguf_name, weight.float().numpy())
    if config["rope_parameters"]["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _frequency_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_metadata(writer: gguf.GGUFWriter, config: dict[str, object]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config["model_type"] == "mistral" and config["sliding_window"]:
        writer.add_sliding_window(config["sliding_window"])
    rope = config["rope_parameters"]
    assert isinstance(rope, dict)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _write_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", *(f"t{i}" for i in range(3, size))])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["a b"])


def _permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """From halves of a head that are rotated together to neighbours that are."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def _frequency_factors(config: dict[str, object]) -> np.ndarray:
    """By how much Llama 3's scaling slows each frequency."""
    rope = config["rope_parameters"]
    assert isinstance(rope, dict)
    low_freq_length = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high_freq_length = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for index in range(0, config["head_dim"], 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / config["head_dim"])
        if wavelength < high_freq_length:
            factors.append(1.0)
        elif wavelength > low_freq_length:
            factors.append(rope["factor"])
        else:
            smooth = rope["original_max_position_embeddings"] / wavelength
            smooth = (smooth - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
