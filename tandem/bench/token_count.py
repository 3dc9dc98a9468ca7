"""How many tokens of an answer have come: what its server says, or else a guess that knows it is
one."""

from __future__ import annotations

from typing import Any

from tandem.bench.answer import Answer

Chunk = dict[str, Any]


class TokenCount:
    """Is fed an answer's chunks, and notes in it when its tokens came. A chunk has as many as the
    server says (`usage`, or `timings`). Where it says nothing, a chunk with news is one token, and
    a total at the end settles how many came in all; without one the answer is not counted. `doubt`
    says why it is not known which chunk had how many; empty if it is."""

    def __init__(self, answer: Answer) -> None:
        self.doubt = ""
        self._answer = answer
        self._num_guessed = 0

    def feed(self, chunk: Chunk, now_s: float) -> None:
        """Raises `LookupError` or `TypeError` for what no server says."""
        answer, said = self._answer, _said(chunk)
        if said is None:
            self._guess(chunk, now_s)
        elif self._num_guessed and said != answer.num_tokens and _is_last(chunk):
            self._guess(chunk, now_s)
            self._settle(said)
        else:
            answer.note(now_s, said)
            answer.is_counted = True

    def _guess(self, chunk: Chunk, now_s: float) -> None:
        if _has_news(chunk):
            self._num_guessed += 1
            self._answer.is_counted = False
            self._answer.note(now_s, self._answer.num_tokens + 1)

    def _settle(self, num_tokens: int) -> None:
        self._answer.is_counted = True
        if num_tokens != self._answer.num_tokens:
            self._answer.settle(num_tokens)
            self.doubt = (
                f"{num_tokens} tokens in {self._num_guessed} chunks, and the server does not say"
                " which chunk has how many"
            )


def _said(chunk: Chunk) -> int | None:
    """How many tokens have come by now, as the server has it."""
    if usage := chunk.get("usage"):
        return int(usage["completion_tokens"])
    if timings := chunk.get("timings"):
        return int(timings["predicted_n"])
    return None


def _is_last(chunk: Chunk) -> bool:
    choices = chunk.get("choices")
    return not choices or bool(choices[0].get("finish_reason"))


def _has_news(chunk: Chunk) -> bool:
    """Whether it brings anything of a completion or of a chat: text, thoughts (`reasoning` or
    `reasoning_content`), a call of a tool, or whatever else a server's deltas have."""
    choices = chunk.get("choices")
    if not choices:
        return False
    delta = choices[0].get("delta") or {}
    return bool(
        choices[0].get("text") or any(value for name, value in delta.items() if name != "role")
    )
