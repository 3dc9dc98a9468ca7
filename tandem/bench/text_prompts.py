"""Prompts as text, for servers that take no token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from tandem.bench.answer import Answer

# A word with the space before it, in the alphabet of byte-level and of SentencePiece vocabularies.
SPACES = "Ġ▁"


class Words:
    """Text of words that are a token each, so that it has a known number of tokens."""

    def __init__(self, tokenizer_file: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._ids = sorted(
            token_id
            for token, token_id in self._tokenizer.get_vocab().items()
            if token[0] in SPACES and token[1:].isascii() and token[1:].isalpha()
        )

    def content(self, answer: Answer) -> str:
        """Text for the answer's prompt, whose token ids become those of the text.

        Raises `ValueError` if the tokenizer reads its own words in another way.
        """
        ids = [self._ids[each % len(self._ids)] for each in answer.prompt.token_ids]
        text = str(self._tokenizer.decode(ids))
        if self._tokenizer.encode(text, add_special_tokens=False).ids != ids:
            raise ValueError("this tokenizer does not read words as it writes them: use token ids")
        answer.prompt = replace(answer.prompt, token_ids=tuple(ids))
        return text
