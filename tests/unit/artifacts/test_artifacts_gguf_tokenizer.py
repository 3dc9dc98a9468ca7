"""GGUF tokenizers, on examples worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from gguf import TokenType
from tokenizers import Tokenizer

from tandem.artifacts import tokenizer as tokenizer_module
from tandem.artifacts.gguf_byte_level import PRE_TOKENIZERS
from tandem.artifacts.gguf_tokenizer import gguf_tokenizer
from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError


def pieces(pre: str, text: str) -> list[str]:
    """Where words are cut, spaces shown as such."""
    split: Any = PRE_TOKENIZERS[pre]().pre_tokenize_str(text)
    return [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in split]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "It's 12345 ok!!  x", ["It", "'s", " 12345", " ok", "!!", " ", " x"]),
        ("smollm", "It's 123", ["It", "'s", " ", "1", "2", "3"]),
        ("llama-bpe", "IT'S 12345", ["IT", "'S", " ", "123", "45"]),
        ("llama3", "a.b\n\n c", ["a", ".b", "\n\n", " c"]),
        ("qwen2", "IT'S 123", ["IT", "'S", " ", "1", "2", "3"]),
        ("deepseek-r1-qwen", "x=42;\n", ["x", "=", "4", "2", ";\n"]),
        ("default", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
    ],
)
def test_words_are_cut_as_the_model_knows_them(pre: str, text: str, expected: list[str]) -> None:
    assert pieces(pre, text) == expected


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = {"▁": -9.0, "a": -10.0, "b": -11.0, "▁a": -1.0, "ab": -2.0, "▁ab": -3.0, "ba": -1.5}
SPECIAL = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}


def sentencepiece(**changes: object) -> Tokenizer:
    tokens = [*SPECIAL, *BYTES, *PIECES, "<tool>"]
    types = [*SPECIAL.values(), *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * len(PIECES)]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(each) for each in [*types, TokenType.USER_DEFINED]],
        "tokenizer.ggml.scores": [0.0] * 259 + [*PIECES.values(), 0.0],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return gguf_tokenizer(JsonObject(metadata | changes, "x.gguf"))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("ab", ["▁ab"]),  # ▁a first, the best score, then b joins it
        ("bab", ["▁", "ba", "b"]),  # ba is better than ab
        ("é", ["▁", "<0xC3>", "<0xA9>"]),
        ("a  a", ["▁a", "▁", "▁a"]),
        ("a</s>b<tool>", ["▁a", "</s>", "▁", "b", "<tool>"]),
    ],
)
def test_sentencepiece_joins_the_best_neighbours(text: str, tokens: list[str]) -> None:
    tokenizer = sentencepiece()
    assert tokenizer.encode(text, add_special_tokens=False).tokens == tokens
    assert tokenizer.encode(text).tokens == ["<s>", *tokens]


@pytest.mark.parametrize("text", ["ab", "a b  ab", " a", "né", "你好 🙂", "a\n"])
def test_sentencepiece_text_comes_back(text: str) -> None:
    ours = tokenizer_module.Tokenizer(sentencepiece())
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    stream = ours.decode_stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == text


def test_a_model_may_do_without_the_space_before_and_the_bos() -> None:
    flags = {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    tokenizer = sentencepiece(**flags)
    assert tokenizer.encode("ab a").tokens == ["ab", "▁a"]
    assert tokenizer.decode(tokenizer.encode(" ab").ids) == " ab"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "unigram"),
        ("model", None),
        ("tokens", ["a", 1]),
        ("tokens", ["a", "a"]),
        ("token_type", [1, 2]),
        ("scores", [1.0]),
        ("scores", None),
        ("scores", "many"),
        ("bos_token_id", 10**6),
        ("unknown_token_id", -1),
    ],
)
def test_what_is_wrong_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"tokenizer\.ggml\.{key}"):
        sentencepiece(**{f"tokenizer.ggml.{key}": value})


def test_llamas_byte_level_tokenizer_begins_with_its_bos() -> None:
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["<|begin|>", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
    }
    for pre, expected in (("llama-bpe", [0, 3]), ("qwen2", [3]), (None, [3])):
        tokenizer = gguf_tokenizer(JsonObject(metadata | {"tokenizer.ggml.pre": pre}, "x.gguf"))
        assert tokenizer.encode("ab").ids == expected
