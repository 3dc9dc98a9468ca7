"""A Hugging Face tokenizer from a GGUF file's vocabulary."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer

from tandem.artifacts.gguf_byte_level import byte_level_bpe
from tandem.artifacts.gguf_sentencepiece import sentencepiece_bpe
from tandem.artifacts.gguf_vocabulary import GgufVocabulary
from tandem.artifacts.json_object import JsonObject

KINDS: dict[str, Callable[[GgufVocabulary], Tokenizer]] = {
    "gpt2": byte_level_bpe,
    "llama": sentencepiece_bpe,
}


def gguf_tokenizer(metadata: JsonObject) -> Tokenizer:
    """The tokenizer, to be saved as `tokenizer.json`. Raises `ConfigError`."""
    kind = metadata.text("tokenizer.ggml.model")
    if kind not in KINDS:
        raise metadata.wrong("tokenizer.ggml.model", f"one of the supported: {', '.join(KINDS)}")
    return KINDS[kind](GgufVocabulary.read(metadata))


def gguf_tokenizer_config(metadata: JsonObject, max_length: int) -> dict[str, object]:
    """The contents of `tokenizer_config.json`. Raises `ConfigError`."""
    vocabulary = GgufVocabulary.read(metadata)
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    for name, which in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if vocabulary.has(which):
            config[f"{name}_token"] = vocabulary.token(which)
    if metadata.has("tokenizer.chat_template"):
        config["chat_template"] = metadata.text("tokenizer.chat_template")
    return config
