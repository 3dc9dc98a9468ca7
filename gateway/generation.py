"""One choice of one request on its way through the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from gateway.tokens import ServedBy, Token, TokenRequest
from tandem.core.commands import Destination, PrefillChunk, PrefillSequence, Reserve
from tandem.core.errors import DataLoss
from tandem.core.reports import Reserved
from tandem.core.sequence import FinishReason, SequenceKey

if TYPE_CHECKING:
    from gateway.fleet import DecodeView, PrefillView

# A request whose worker was lost so often may be why.
MAX_RESTARTS = 3


class Phase(Enum):
    """Where a generation is."""

    QUEUED = auto()
    RESERVING = auto()
    PREFILLING = auto()
    DECODING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Generation:
    """A request's whole state. `sequence_id` names one attempt at it to the workers; `num_losses`
    attempts ended because a worker was lost, or the way to it. It arrived as number `arrival`, at
    `arrived_s` in monotonic seconds, when a prompt token was thought to take `token_s` seconds.

    `prefill` and `decode` are the workers that hold a record of the sequence; `prefill_worker` and
    `decode_worker` say, to the end, who served it: one and the same if the decode worker computes
    the prompt. Of the prompt `num_scheduled` tokens are computed, or sent to be; its tenant was
    charged `prompt_charge` for it (`fair_shares.py`).
    """

    request: TokenRequest
    sequence_id: int
    arrived_s: float = 0.0
    token_s: float = 0.0
    arrival: int = field(init=False)
    phase: Phase = Phase.QUEUED
    attempt: int = 0
    num_losses: int = 0
    prefill: PrefillView | None = None
    decode: DecodeView | None = None
    grant: Reserved | None = None
    num_scheduled: int = 0
    prompt_charge: float = 0.0
    armed: bool = False
    prefill_worker: str = ""
    decode_worker: str = ""
    token_kv_bytes: int = 0
    token_ids: list[int] = field(default_factory=list)
    _early: dict[int, Token] = field(default_factory=dict)
    _end: tuple[int, FinishReason] | None = None

    def __post_init__(self) -> None:
        self.arrival = self.sequence_id

    @property
    def key(self) -> SequenceKey:
        return SequenceKey(self.request.request_id, self.request.choice_index, self.attempt)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def max_length(self) -> int:
        """Tokens of the sequence at the most."""
        return self.num_prompt_tokens + self.request.params.max_tokens

    @property
    def needs_decode(self) -> bool:
        """Whether there may be more than the first token, so that a decode worker is needed."""
        return self.request.params.max_tokens > 1

    @property
    def can_restart(self) -> bool:
        """Whether it can begin anew without its client noticing."""
        return not self.token_ids and self.num_losses < MAX_RESTARTS

    @property
    def num_tokens_left(self) -> int:
        """Prompt tokens that are not scheduled."""
        return self.num_prompt_tokens - self.num_scheduled

    @property
    def is_local(self) -> bool:
        """Whether the worker that decodes computes the prompt, too."""
        return self.decode is not None and self.prefill_worker == self.decode_worker

    def accept(
        self, token: Token, finish_reason: FinishReason | None
    ) -> tuple[Sequence[Token], FinishReason | None]:
        """Take a token from a worker; the tokens that are due to the client now, in order, and the
        reason if they are the last.

        The same token may come twice (from both workers, or in a snapshot), and a decode worker's
        first may come before the prefill worker's: positions sort that out. Raises `DataLoss` if
        two workers say different tokens for one position.
        """
        position = token.position
        next_position = self.num_prompt_tokens + len(self.token_ids)
        if finish_reason is not None:
            self._end = (position, finish_reason)
        elif position == next_position and not self._early and self._end is None:
            # As nearly all come.
            self.token_ids.append(token.token_id)
            return (token,), None
        if position < next_position:
            known = self.token_ids[position - self.num_prompt_tokens]
        else:
            known = self._early.setdefault(position, token).token_id
        if known != token.token_id:
            raise DataLoss(f"token {position} was {known} and then {token.token_id}")
        due: list[Token] = []
        while next_position in self._early:
            due.append(self._early.pop(next_position))
            self.token_ids.append(due[-1].token_id)
            next_position += 1
        ended = self._end is not None and self._end[0] < next_position
        return due, self._end[1] if ended and self._end else None

    def served_by(self) -> ServedBy:
        """How it was served so far. The decode worker counts once all KV has moved to it."""
        if self.grant is None or not self.armed:
            return ServedBy(self.prefill_worker, decode_worker="")
        num_cached_tokens = self.grant.num_cached_tokens
        moved = self.prefill_worker != self.decode_worker
        return ServedBy(
            self.prefill_worker,
            self.decode_worker,
            kv_bytes=moved * (self.num_prompt_tokens - num_cached_tokens) * self.token_kv_bytes,
            num_cached_tokens=num_cached_tokens,
        )

    def mark_armed(self) -> None:
        """Its KV is complete on the decode worker."""
        self.armed = True
        self.phase = Phase.DECODING

    def reserve(self) -> Reserve:
        """Asks a decode worker for the blocks of the longest that the sequence may become."""
        params = self.request.params
        return Reserve(
            self.sequence_id, self.key, self.request.prompt_token_ids, params.max_tokens, params
        )

    def chunk(self, start: int, end: int) -> PrefillChunk:
        """Prompt tokens `[start, end)` for a prefill worker."""
        return PrefillChunk(
            sequence_id=self.sequence_id,
            start=start,
            token_ids=self.request.prompt_token_ids[start:end],
            last=end == self.num_prompt_tokens,
            sequence=self._prefill_sequence() if start == 0 else None,
        )

    def _prefill_sequence(self) -> PrefillSequence:
        grant, decode = self.grant, self.decode
        destination = None
        if grant and decode:
            destination = Destination(
                decode.address, grant.transfer_id, grant.epoch, grant.num_cached_tokens
            )
        return PrefillSequence(self.key, self.num_prompt_tokens, self.request.params, destination)

    def restart(self, sequence_id: int) -> None:
        """Forget an attempt of which nothing reached the client."""
        self.sequence_id = sequence_id
        self.phase = Phase.QUEUED
        self.attempt += 1
        self.prefill = self.decode = self.grant = None
        self.prefill_worker = self.decode_worker = ""
        self.num_scheduled = 0
        self.armed = False
        self._early.clear()
        self._end = None
