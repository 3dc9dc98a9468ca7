"""What distinguishes the endpoints' answers: the form of a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from gateway.choice import Delta, Finished, ScoredToken
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.logprobs import Pieces


class AnswerFormat(Protocol):
    """All but the protocol's constants give JSON: fields without braces around them, or a value."""

    id_prefix: str
    object_name: str
    chunk_object_name: str

    def whole(self, choice: CollectedChoice) -> bytes:
        """A choice that is not streamed."""
        ...

    def opening(self) -> bytes | None:
        """A streamed choice before its text."""
        ...

    def deltas(self, delta: Delta) -> Sequence[bytes]:
        """What is new of a streamed choice, for a chunk each; none if nothing is."""
        ...

    def nothing(self) -> bytes:
        """A streamed choice of which nothing new is shown: as at its end."""
        ...

    def scored(self, tokens: Sequence[ScoredToken]) -> Pieces:
        """What is said of some tokens in a choice's `logprobs`."""
        ...

    def logprobs(self, pieces: Sequence[Pieces]) -> Iterable[bytes]:
        """A value of what is said of tokens, in pieces: null without any."""
        ...

    def finish_reason(self, finished: Finished) -> str:
        """OpenAI's name for how a choice ended."""
        ...
