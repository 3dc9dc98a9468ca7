"""What the gateway tells a worker. Commands are applied in order, between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem.core.plan import StepRule
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import SequenceKey
from tandem.core.token_ids import joined


@dataclass(frozen=True, slots=True)
class Reserve:
    """Decode: set blocks aside for the sequence's tokens and `headroom_tokens` after them. Cached
    blocks are shared among those with the same `prefix_salt`.

    `generated_token_ids` are there if it goes on from where another attempt ended. Of the sequences
    that run, the one with the highest `preemption_rank` is the first to give its blocks up when
    there are none left; of equals, who came last."""

    sequence_id: int
    key: SequenceKey
    prompt_token_ids: Sequence[int]
    headroom_tokens: int
    params: SamplingParams
    prefix_salt: bytes = b""
    generated_token_ids: Sequence[int] = ()
    preemption_rank: tuple[float, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that there are."""
        return len(self.prompt_token_ids) + len(self.generated_token_ids)


@dataclass(frozen=True, slots=True)
class Admit:
    """Decode: let a reserved sequence join at the first step that starts after it is armed. With
    `compute` its KV does not come from elsewhere: its prompt is computed here, behind those that
    were admitted so before it."""

    sequence_id: int
    compute: bool = False


@dataclass(frozen=True, slots=True)
class SetStepRule:
    """Decode: fill steps by this rule from now on."""

    rule: StepRule


@dataclass(frozen=True, slots=True)
class SetRecomputeCost:
    """Decode: a token that a preempted sequence loses takes `token_s` seconds to compute again."""

    token_s: float


@dataclass(frozen=True, slots=True)
class Remove:
    """Both roles: end a sequence wherever it is, free its blocks, and forget it. Unknown ids are
    ignored."""

    sequence_id: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Both roles: something was said of a sequence that this version does not know, as `why` tells.
    The sequence fails, whether it is held or not; all else that was said is good."""

    sequence_id: int
    why: str


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a sequence's KV goes: a reservation on a decode worker, as its grant named it."""

    address: str
    transfer_id: bytes
    epoch: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class PrefillSequence:
    """A sequence, as a prefill worker must know it. Without a destination it ends with its next
    token. `prefix_salt` as in `Reserve`. `num_generated_tokens` of those that are computed are not
    the prompt's: it goes on from where another attempt ended."""

    key: SequenceKey
    num_prompt_tokens: int
    params: SamplingParams
    destination: Destination | None
    prefix_salt: bytes = b""
    num_generated_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return self.num_prompt_tokens + self.num_generated_tokens


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Consecutive tokens of a sequence. `sequence` comes with the first chunk. `last`: its tokens
    end here; all other chunks end on a block boundary. If the prompt's log-probabilities are asked
    for, `next_token_id` is the token behind a chunk that is not the last."""

    sequence_id: int
    start: int
    token_ids: Sequence[int]
    last: bool
    sequence: PrefillSequence | None = None
    next_token_id: int | None = None

    @property
    def end(self) -> int:
        """One past its last position."""
        return self.start + len(self.token_ids)

    @property
    def following_ids(self) -> Sequence[int]:
        """The token behind each of its own, as far as it is known."""
        behind = () if self.next_token_id is None else (self.next_token_id,)
        return joined(self.token_ids[1:], behind)

    def up_to(self, num_tokens: int) -> PrefillChunk:
        """Its first tokens."""
        if num_tokens == len(self.token_ids):
            return self
        token_ids, next_token_id = self.token_ids[:num_tokens], self.token_ids[num_tokens]
        return replace(self, token_ids=token_ids, last=False, next_token_id=next_token_id)

    def without(self, num_tokens: int) -> PrefillChunk:
        """All but its first tokens."""
        if num_tokens == 0:
            return self
        start, token_ids = self.start + num_tokens, self.token_ids[num_tokens:]
        return replace(self, start=start, token_ids=token_ids, sequence=None)


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Prefill: chunks of different sequences to compute in one step, behind earlier batches. Should
    less be cached than the controller thought, it takes several: none computes more than
    `max_tokens`, if that is not 0. `unreadable` are the sequences that came with it and are in no
    chunk."""

    batch_id: int
    chunks: tuple[PrefillChunk, ...]
    max_tokens: int = 0
    unreadable: tuple[Unreadable, ...] = ()


DecodeCommand = Reserve | Admit | Remove | SetStepRule | SetRecomputeCost
ReceivedDecodeCommand = DecodeCommand | Unreadable
PrefillCommand = PrefillBatch | Remove
