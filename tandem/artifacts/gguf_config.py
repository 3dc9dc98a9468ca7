"""A Hugging Face `config.json` from a GGUF file's metadata."""

from __future__ import annotations

import numpy as np
from gguf import TokenType

from tandem.artifacts.config import DEFAULT_ROPE_THETA
from tandem.artifacts.gguf_file import GgufFile
from tandem.artifacts.gguf_rope import gguf_rope_scaling
from tandem.artifacts.gguf_vocabulary import GgufVocabulary
from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Llama 3's, ChatML's, Phi's and Gemma's.
ENDS_OF_TURNS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
# Llama 3's and Qwen's. Their authors' `generation_config.json` names it beside the end of a turn;
# a file made of it names only that.
ENDS_OF_TEXTS = {"llama": "<|end_of_text|>", "qwen2": "<|endoftext|>", "qwen3": "<|endoftext|>"}


def gguf_config(file: GgufFile) -> dict[str, object]:
    """The contents of `config.json`. Raises `ConfigError` for what is missing or unsupported."""
    metadata = file.metadata
    kind = metadata.text("general.architecture")
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"{file.path}: GGUF architecture {kind!r:.80} is not supported; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    if "token_embd.weight" not in file.tensors:
        raise ConfigError(f"{file.path}: the tensor token_embd.weight is missing")
    _refuse_unsupported(metadata, kind)
    num_heads = metadata.positive(f"{kind}.attention.head_count")
    hidden_size = metadata.positive(f"{kind}.embedding_length")
    head_dim = _head_dim(metadata, kind, hidden_size // num_heads)
    rope_theta = _float32(metadata, f"{kind}.rope.freq_base", DEFAULT_ROPE_THETA)
    return {
        **_family(metadata, kind),
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": metadata.positive(f"{kind}.feed_forward_length"),
        "num_hidden_layers": metadata.positive(f"{kind}.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.positive(f"{kind}.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "vocab_size": int(file.tensors["token_embd.weight"].shape[-1]),
        "max_position_embeddings": metadata.positive(f"{kind}.context_length"),
        "rms_norm_eps": _float32(metadata, f"{kind}.attention.layer_norm_rms_epsilon"),
        "rope_theta": rope_theta,
        "rope_scaling": gguf_rope_scaling(file, kind, rope_theta, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": _token_id(metadata, "bos"),
        "eos_token_id": _eos_token_ids(metadata, kind),
        "pad_token_id": _token_id(metadata, "padding"),
    }


def _refuse_unsupported(metadata: JsonObject, kind: str) -> None:
    if metadata.has("split.count") and metadata.integer("split.count") > 1:
        raise metadata.wrong("split.count", "1: join its parts with llama-gguf-split --merge first")
    experts = f"{kind}.expert_count"
    if metadata.has(experts) and metadata.integer(experts):
        raise metadata.wrong(experts, "0: mixtures of experts are not supported")
    causal = f"{kind}.attention.causal"
    if not metadata.flag(causal, default=True):
        raise metadata.wrong(causal, "true: attention to what comes later is not supported")


def _family(metadata: JsonObject, kind: str) -> dict[str, object]:
    """A Mistral is a llama to GGUF; one with a window is told apart by it."""
    window = f"{kind}.attention.sliding_window"
    if kind == "llama" and metadata.has(window) and metadata.integer(window):
        return {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": metadata.positive(window),
        }
    return {"architectures": [ARCHITECTURES[kind]], "model_type": kind}


def _head_dim(metadata: JsonObject, kind: str, default: int) -> int:
    head_dim = metadata.positive(f"{kind}.attention.key_length", default)
    for name in ("attention.value_length", "rope.dimension_count"):
        same = f"{kind}.{name}"
        if metadata.has(same) and metadata.integer(same) != head_dim:
            raise metadata.wrong(same, f"{head_dim}, the size of a head: others are not supported")
    return head_dim


def _float32(metadata: JsonObject, key: str, default: float | None = None) -> float:
    """GGUF stores 1e-5 as float32; written out it is to be 1e-05 again, not 9.99999974e-06."""
    return float(str(np.float32(metadata.positive_number(key, default))))


def _token_id(metadata: JsonObject, which: str) -> int | None:
    key = f"tokenizer.ggml.{which}_token_id"
    return metadata.integer(key) if metadata.has(key) else None


def _eos_token_ids(metadata: JsonObject, kind: str) -> list[int]:
    """The end of a text, of a turn and of a message: those that the file names, often one alone,
    and those that are known by their texts."""
    named = {_token_id(metadata, which) for which in ("eos", "eot", "eom")}
    vocabulary = GgufVocabulary.read(metadata)
    ids = vocabulary.ids()
    known = {ids[token] for token in (*ENDS_OF_TURNS, ENDS_OF_TEXTS[kind]) if token in ids}
    controls = {token_id for token_id in known if vocabulary.types[token_id] == TokenType.CONTROL}
    return sorted(token_id for token_id in named | controls if token_id is not None)
