"""Turning a sequence's tokens into text while they come."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders

# A character has at most four bytes. More tokens than this that do not amount to one are a model
# gone astray; they are let go so that the work for a token stays bounded.
MAX_HELD = 64


class DecodeStream:
    """Detokenises one sequence, a token at a time. Not to be shared between threads.

    All that `push` returned and what `flush` returns add up to the text of all the tokens at once,
    of which SentencePiece's decoder drops a leading space if no text is before them. Two
    exceptions, both only for tokens that are not text: more than `MAX_HELD` tokens in a row that
    end in the middle of a character, and a tokenizer with byte fallback (SentencePiece) whose
    bytes, shown already as a character, turn out to belong to an invalid run.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        skipped: frozenset[int],
        lead: Sequence[int],
        *,
        is_continuation: bool,
    ) -> None:
        """`skipped` are the ids that make no text: the special tokens, or none. `lead` are tokens
        of some text: they stand for what is before, which is something from the first token on if
        it `is_continuation`."""
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._lead = lead
        # The lead, once there is text before what is held.
        self._before = lead if is_continuation else ()
        self._held: list[int] = []
        self._stream = self._new_stream()

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
        self._before = self._lead
        return text

    def flush(self) -> str:
        """The text held back so far, an incomplete character as U+FFFD. None of it changes any
        more by what follows."""
        if not self._held:
            return ""
        text = self._held_text()
        self._held.clear()
        self._before = self._lead
        self._stream = self._new_stream()
        return text

    def _new_stream(self) -> decoders.DecodeStream:
        return decoders.DecodeStream(ids=list(self._before), skip_special_tokens=False)

    def _held_text(self) -> str:
        before = self._decode(self._before)
        text = self._decode([*self._before, *self._held])
        # Not so where the lead is bytes, and they are in an invalid run with those held.
        return text[len(before) :] if text.startswith(before) else self._decode(self._held)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)
