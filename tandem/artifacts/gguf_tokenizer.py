"""A Hugging Face tokenizer from a GGUF file's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError

# The expressions that the models' authors published in their tokenizer.json. They differ in how
# many digits make a piece.
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2()])


def _split(digits: str) -> PreTokenizer:
    bytes_only = ByteLevel(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(SPLIT_REGEX % digits), "isolated"), bytes_only])


PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": lambda: _split("{1,3}"),
    "qwen2": lambda: _split(""),
}


def gguf_tokenizer(metadata: JsonObject) -> Tokenizer:
    """The tokenizer, to be saved as `tokenizer.json`. Raises `ConfigError`."""
    pre = _pre_tokenizer_name(metadata)
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    merges = [_merge(metadata, line) for line in _strings(metadata, "tokenizer.ggml.merges")]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    try:
        # Llama 3 takes a whole word that is in the vocabulary, even if no merges lead to it.
        model = BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{metadata.source}: its merges do not fit its vocabulary") from error
    tokenizer = Tokenizer(model)
    # The library's stubs make plain attributes of these properties.
    properties = cast(Any, tokenizer)
    if pre == "qwen2":
        properties.normalizer = normalizers.NFC()
    properties.pre_tokenizer = PRE_TOKENIZERS[pre]()
    properties.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, tokens, metadata)
    if metadata.flag("tokenizer.ggml.add_bos_token"):
        properties.post_processor = _prepend(tokens, metadata)
    return tokenizer


def gguf_tokenizer_config(metadata: JsonObject, max_length: int) -> dict[str, object]:
    """The contents of `tokenizer_config.json`. Raises `ConfigError`."""
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    for name, which in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if metadata.has(f"tokenizer.ggml.{which}_token_id"):
            config[f"{name}_token"] = _token(tokens, metadata, which)
    if metadata.has("tokenizer.chat_template"):
        config["chat_template"] = metadata.text("tokenizer.chat_template")
    return config


def _pre_tokenizer_name(metadata: JsonObject) -> str:
    model = metadata.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise metadata.wrong("tokenizer.ggml.model", "'gpt2' (byte-level BPE), the supported one")
    pre = metadata.text("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise metadata.wrong("tokenizer.ggml.pre", f"one of {', '.join(PRE_TOKENIZERS)}")
    return pre


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], metadata: JsonObject) -> None:
    types = metadata.integers("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise metadata.wrong("tokenizer.ggml.token_type", f"{len(tokens)} entries")
    added = [
        AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    # They are in the vocabulary already, so they keep their ids.
    tokenizer.add_tokens(added)


def _prepend(tokens: list[str], metadata: JsonObject) -> processors.TemplateProcessing:
    bos = _token(tokens, metadata, "bos")
    bos_id = metadata.integer("tokenizer.ggml.bos_token_id")
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bos_id)]
    )


def _token(tokens: list[str], metadata: JsonObject, which: str) -> str:
    key = f"tokenizer.ggml.{which}_token_id"
    token_id = metadata.integer(key)
    if not 0 <= token_id < len(tokens):
        raise metadata.wrong(key, f"an id below {len(tokens)}")
    return tokens[token_id]


def _strings(metadata: JsonObject, key: str) -> list[str]:
    value = metadata.data.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise metadata.wrong(key, "a list of strings")
    return value


def _merge(metadata: JsonObject, line: str) -> tuple[str, str]:
    left, space, right = line.partition(" ")
    if not space:
        raise ConfigError(f"{metadata.source}: the merge {line!r:.80} is not two tokens")
    return left, right
