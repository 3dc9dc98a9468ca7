"""The tokens of an answer, in order, from whichever worker tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.tokens import Token
from tandem.core.errors import DataLoss
from tandem.core.sequence import FinishReason


@dataclass(slots=True)
class AnswerTokens:
    """Those at `first_position` and behind it. The same token may come twice (from both workers, or
    in a snapshot), and a decode worker's first may come before the prefill worker's: positions sort
    that out. None is due as long as it `awaits_scores`, its prompt's, which come first."""

    first_position: int
    awaits_scores: bool = False
    token_ids: list[int] = field(default_factory=list)
    _early: dict[int, Token] = field(default_factory=dict)
    _end: tuple[int, FinishReason] | None = None

    def accept(
        self, token: Token, finish_reason: FinishReason | None
    ) -> tuple[Sequence[Token], FinishReason | None]:
        """Take a token from a worker; the tokens that are due to the client now, in order, and the
        reason if they are the last. Raises `DataLoss` if two workers say different tokens for one
        position."""
        position = token.position
        next_position = self.first_position + len(self.token_ids)
        if finish_reason is not None:
            self._end = (position, finish_reason)
        elif position == next_position and not self._early and not self.awaits_scores:
            # As nearly all come.
            self.token_ids.append(token.token_id)
            return (token,), None
        if position < next_position:
            known = self.token_ids[position - self.first_position]
        else:
            known = self._early.setdefault(position, token).token_id
        if known != token.token_id:
            raise DataLoss(f"token {position} was {known} and then {token.token_id}")
        due: list[Token] = []
        while next_position in self._early and not self.awaits_scores:
            due.append(self._early.pop(next_position))
            self.token_ids.append(due[-1].token_id)
            next_position += 1
        end = self._end
        return due, end[1] if end and end[0] < next_position else None

    def begin_again(self) -> None:
        """Another attempt goes on from those that are due: what came early, or was to be the end,
        is its own to say."""
        self._early.clear()
        self._end = None
