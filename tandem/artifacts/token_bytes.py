"""What each token says, in bytes."""

from __future__ import annotations

import json
import re
from functools import cached_property

import tokenizers

# How SentencePiece writes a space, and a byte that is no piece of its own.
SPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Reads a tokenizer's vocabulary: of the byte-level kind, whose pieces are bytes written as
    letters, or of SentencePiece's. What is asked again is known: an answer with log-probabilities
    asks of thousands of tokens, and mostly of the same."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def __call__(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._read(token_id)
        return known

    def _read(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        piece = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        if piece is None:
            return b""
        if self._is_byte_level:
            # A piece with another letter is no piece of bytes: it stands for itself.
            if all(letter in self._byte_of for letter in piece):
                return bytes(self._byte_of[letter] for letter in piece)
            return piece.encode()
        if byte := BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace(SPACE, " ").encode()

    @cached_property
    def _added(self) -> dict[int, bytes]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {token_id: token.content.encode() for token_id, token in added.items()}

    @cached_property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str()).get("decoder"))

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        """GPT-2's alphabet: bytes that are printable letters stand for themselves, the others for
        the letters from U+0100 on, in order."""
        printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        others = [byte for byte in range(256) if byte not in printable]
        letters = {chr(0x100 + index): byte for index, byte in enumerate(others)}
        return letters | {chr(byte): byte for byte in printable}
