"""Turning a sequence's tokens into text while they come."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders

# A character has at most four bytes. More tokens than this that do not amount to one are a model
# gone astray; they are let go so that the work for a token stays bounded.
MAX_HELD = 64


class DecodeStream:
    """Detokenises one sequence, a token at a time. Not to be shared between threads.

    All that `push` returned and what `flush` returns add up to the text of all the tokens at once.
    Two exceptions, both only for tokens that are not text: more than `MAX_HELD` tokens in a row
    that end in the middle of a character, and a tokenizer with byte fallback (SentencePiece) whose
    bytes, shown already as a character, turn out to belong to an invalid run.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, skipped: frozenset[int]) -> None:
        """`skipped` are the ids that make no text: the special tokens, or none."""
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._held: list[int] = []
        self._stream = decoders.DecodeStream(skip_special_tokens=False)

    def push(self, token_id: int) -> str:
        """The text that this token completes, "" while it ends within a character."""
        if token_id in self._skipped:
            return ""
        self._held.append(token_id)
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except Exception:
            # Its only failure: earlier text would have to change. What was shown stays shown.
            return self.flush()
        if text is None:
            return self.flush() if len(self._held) == MAX_HELD else ""
        self._held.clear()
        return text

    def flush(self) -> str:
        """The text held back so far, an incomplete character as U+FFFD. Starts afresh."""
        text = self._tokenizer.decode(self._held, skip_special_tokens=False)
        self._held.clear()
        self._stream = decoders.DecodeStream(skip_special_tokens=False)
        return text
