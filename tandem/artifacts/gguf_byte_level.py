"""Byte-level BPE, the tokenizer that GGUF calls `gpt2`: Llama 3, Qwen, SmolLM2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from tandem.artifacts.gguf_vocabulary import GgufVocabulary
from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError

# What the models' authors published in their tokenizer.json. They differ in how many digits make a
# piece.
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What llama.cpp does with a file that names no pre-tokenizer, or calls it so: one after the other.
DEFAULT_REGEXES = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)


def byte_level_bpe(vocabulary: GgufVocabulary) -> Tokenizer:
    """The tokenizer of a `gpt2` vocabulary. Raises `ConfigError`."""
    metadata = vocabulary.metadata
    pre = _pre_tokenizer_name(metadata)
    merges = [_merge(metadata, line) for line in metadata.texts("tokenizer.ggml.merges")]
    is_llama = pre in LLAMA
    try:
        # Llama 3 takes a whole word that is in the vocabulary, even if no merges lead to it.
        model = BPE(vocab=vocabulary.ids(), merges=merges, ignore_merges=is_llama)
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{metadata.source}: its merges do not fit its vocabulary") from error
    tokenizer = Tokenizer(model)
    # The library's stubs make plain attributes of these properties.
    properties = cast(Any, tokenizer)
    if pre in QWEN:
        properties.normalizer = normalizers.NFC()
    properties.pre_tokenizer = PRE_TOKENIZERS[pre]()
    properties.decoder = decoders.ByteLevel()
    vocabulary.add_to(tokenizer)
    if metadata.flag("tokenizer.ggml.add_bos_token", default=is_llama):
        properties.post_processor = vocabulary.bos_template()
    return tokenizer


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2()])


def _split(*regexes: str) -> PreTokenizer:
    splits: list[PreTokenizer] = [Split(Regex(regex), "isolated") for regex in regexes]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def _llama() -> PreTokenizer:
    return _split(SPLIT_REGEX % "{1,3}")


def _qwen() -> PreTokenizer:
    return _split(SPLIT_REGEX % "")


# By the names that llama.cpp's converter gives them.
LLAMA = ("llama-bpe", "llama3", "llama-v3")
QWEN = ("qwen2", "deepseek-r1-qwen")
PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "default": lambda: _split(*DEFAULT_REGEXES),
    "gpt-2": _gpt2,
    "smollm": _smollm,
    **dict.fromkeys(LLAMA, _llama),
    **dict.fromkeys(QWEN, _qwen),
}


def _pre_tokenizer_name(metadata: JsonObject) -> str:
    key = "tokenizer.ggml.pre"
    name = metadata.text(key) if metadata.has(key) else "default"
    if name not in PRE_TOKENIZERS:
        raise metadata.wrong(key, f"one of the supported: {', '.join(PRE_TOKENIZERS)}")
    return name


def _merge(metadata: JsonObject, line: str) -> tuple[str, str]:
    left, space, right = line.partition(" ")
    if not space:
        raise ConfigError(f"{metadata.source}: the merge {line!r:.80} is not two tokens")
    return left, right
