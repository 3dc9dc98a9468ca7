"""What a worker tells its controller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.sequence import FinishReason


@dataclass(frozen=True, slots=True)
class Reserved:
    """Decode: the grant of a reservation. `transfer_id` is an unguessable capability."""

    sequence_id: int
    transfer_id: bytes
    epoch: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class Armed:
    """Decode: a sequence's KV is complete, and its first token known. With a `finish_reason` it
    ends here with that token, though the prefill worker went on."""

    sequence_id: int
    position: int
    token_id: int
    at_ns: int
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class PromptTimes:
    """When a sequence's prompt was computed, on the worker's clock: from the start of the first
    step with any of it to the end of the last, of `num_steps`."""

    start_ns: int
    end_ns: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Decode: the log-probabilities of a prompt's tokens, but for the first one's, which are asked
    for. It was computed there; its first generated token comes behind them. A report of its own,
    since a message has room for few of these."""

    sequence_id: int
    logprobs: LogprobColumns


class ComputedPrompt(NamedTuple):
    """Decode: a prompt that was computed there, and when."""

    sequence_id: int
    times: PromptTimes


@dataclass(frozen=True, slots=True)
class StepDone:
    """Decode: one step, in columns. `logprobs` is empty if no sequence asks for any. The tokens
    of a prompt that is computed here show in the worker's spans; its first generated token stands
    in the columns like any other. `computed` are the prompts that were computed here, the last of
    them in this step."""

    step: int
    start_ns: int
    end_ns: int
    sequence_ids: tuple[int, ...]
    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reasons: tuple[FinishReason | None, ...]
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    computed: tuple[ComputedPrompt, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceFailed:
    """Both roles: its blocks are free. `reason` is a `TandemError.reason`."""

    sequence_id: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Preempted:
    """Decode: a sequence gave up its blocks: others needed them. It is forgotten, or `parked`: then
    it goes on by itself when there is room again."""

    sequence_id: int
    parked: bool = False


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Prefill: a batch is through the engine; `step` 0 if nothing was left of it to run."""

    batch_id: int
    step: int


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Prefill: the token that follows the computed ones, of which `num_cached_tokens` were found in
    the cache; `prompt_times` says when the others were computed. `prompt_logprobs` as in
    `PromptScores`."""

    sequence_id: int
    position: int
    token_id: int
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None
    num_cached_tokens: int = 0
    prompt_times: PromptTimes | None = None
    prompt_logprobs: LogprobColumns | None = None


@dataclass(frozen=True, slots=True)
class TransferDone:
    """Prefill: the decode worker acknowledged all KV, and the sequence's blocks are free."""

    sequence_id: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SequenceSnapshot:
    """Decode: one sequence, and its tokens from `position` on, those that the controller may not
    have. `logprobs` is empty, or one for each token; `prompt_logprobs` go with the first of all, as
    in `PromptScores`."""

    sequence_id: int
    reserved: Reserved
    position: int
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    prompt_logprobs: LogprobColumns | None = None


@dataclass(frozen=True, slots=True)
class DecodeSnapshot:
    """Every sequence that a decode worker holds, or that ended and was not yet removed."""

    sequences: tuple[SequenceSnapshot, ...]


@dataclass(frozen=True, slots=True)
class PrefillSnapshot:
    """What a prefill worker holds. `reports` says again what happened to these sequences so far."""

    sequence_ids: tuple[int, ...]
    batch_ids: tuple[int, ...]
    reports: tuple[PrefillReport, ...]


DecodeReport = Reserved | Armed | PromptScores | StepDone | Preempted | SequenceFailed
PrefillReport = BatchDone | FirstToken | TransferDone | SequenceFailed


class SpanKind(IntEnum):
    """What a span shows. The numbers are the wire's."""

    STEP = 1
    FRAME_SENT = 2
    FRAME_RECEIVED = 3
    TRANSFER = 4


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a worker did, on its own monotonic clock; the fields are those of the wire's
    `Span`. `waited`: the engine had nothing to do before the step."""

    kind: SpanKind
    start_ns: int
    end_ns: int
    number: int = 0
    sequence_id: int = 0
    num_seqs: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    compute_end_ns: int = 0
    waited: bool = False
    num_prefill_tokens: int = 0

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def step_kind(num_tokens: int, num_prefill_tokens: int) -> str:
    """`prefill`, `decode` or `both`, by whose tokens a step has."""
    if num_prefill_tokens == 0:
        return "decode"
    return "prefill" if num_prefill_tokens == num_tokens else "both"
