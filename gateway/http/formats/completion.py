"""Choices of /v1/completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from gateway.choice import Delta, Finished, ScoredToken
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.logprobs import NULL, Pieces, completion_logprobs, completion_pieces
from gateway.tokens import TokenBytes


class CompletionFormat:
    """Texts, and pieces of them."""

    id_prefix = "cmpl-"
    object_name = "text_completion"
    chunk_object_name = "text_completion"

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes

    def whole(self, choice: CollectedChoice) -> bytes:
        return b'"text":' + orjson.dumps(choice.text)

    def opening(self) -> bytes | None:
        return None

    def deltas(self, delta: Delta) -> Sequence[bytes]:
        if delta.text or delta.scored:
            return (b'"text":' + orjson.dumps(delta.text),)
        return ()

    def nothing(self) -> bytes:
        return b'"text":""'

    def scored(self, tokens: Sequence[ScoredToken]) -> Pieces:
        return completion_pieces(tokens, self._token_bytes)

    def logprobs(self, pieces: Sequence[Pieces]) -> Iterable[bytes]:
        return completion_logprobs(pieces) if pieces else NULL

    def finish_reason(self, finished: Finished) -> str:
        return finished.finish_reason.name.lower()
