"""A small tokenizer of SentencePiece's kind."""

from __future__ import annotations

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from tandem.artifacts.tokenizer import Tokenizer

UNKNOWN, START, END = range(3)
PIECES = ("▁", "a", "b", "▁a", "▁b", "ab", "▁ab", "▁�")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
ID_OF = {piece: 259 + index for index, piece in enumerate(PIECES)}


def llama_tokenizer() -> Tokenizer:
    """As Llama 2's: pieces begin with their words' spaces, a text with a space that is not shown,
    and bytes stand for what is no piece."""
    vocab = {piece: index for index, piece in enumerate(("<unk>", "<s>", "</s>", *BYTES, *PIECES))}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in ("<s>", "</s>")])
    return Tokenizer(tokenizer)


def bytes_of(text: str) -> list[int]:
    """The tokens of its bytes."""
    return [3 + byte for byte in text.encode()]
