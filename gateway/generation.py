"""One choice of one request on its way through the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from gateway.answer_tokens import AnswerTokens
from gateway.bill import Bill
from gateway.output_lengths import OutputLengths
from gateway.prefix_index import PromptPrefix
from gateway.setbacks import Setbacks
from gateway.stages import AttemptEnd, Attempts
from gateway.tokens import ServedBy, TokenRequest
from tandem.core.commands import Destination, PrefillChunk, PrefillSequence, Reserve
from tandem.core.reports import Reserved
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import SequenceKey
from tandem.core.token_ids import joined

if TYPE_CHECKING:
    from gateway.decode_view import DecodeView
    from gateway.prefill_view import PrefillView
    from gateway.worker_view import WorkerView

# A request whose worker, or KV, was lost so often may be why; not if an attempt at it generated so
# many tokens since.
MAX_RESTARTS = 3
NUM_GOOD_TOKENS = 64


class Phase(Enum):
    """Where a generation is."""

    QUEUED = auto()
    RESERVING = auto()
    PREFILLING = auto()
    DECODING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Generation:
    """A request's whole state. `sequence_id` names one attempt at it to the workers; `setbacks`
    count why attempts ended, `num_failed_steps` its steps that failed since an attempt had a good
    one. An attempt goes on from the tokens of the `answer` that those before it generated: its
    `context_token_ids` are the prompt and these. It arrived as number `arrival`, at `arrived_s` in
    monotonic seconds, when a prompt token was thought to take `token_s` seconds; `attempts` know
    since when it is where. `lengths` is what is known of how long it may get.

    `prefill` and `decode` are the workers that hold a record of the sequence; `prefill_worker` and
    `decode_worker` say, to the end, who served it: one and the same if the decode worker computes
    the context. Of that `num_scheduled` tokens are computed, or sent to be; its tenant has
    a `bill` for them (`fair_shares.py`).

    `prefix` names the context's blocks. `expected_cached_tokens` of its tokens are thought to be
    cached where it will be computed; of the prompt, `num_cached_tokens` were. `shared_digests` name
    the blocks that others may have as well on its decode worker. It waited `num_waits` times for
    one that begins alike (`shared_prompts.py`). `is_stepping`: a step has reported a token of this
    attempt.
    """

    request: TokenRequest
    sequence_id: int
    arrived_s: float = 0.0
    token_s: float = 0.0
    lengths: OutputLengths = field(default_factory=OutputLengths)
    arrival: int = field(init=False)
    attempts: Attempts = field(init=False)
    phase: Phase = Phase.QUEUED
    setbacks: Setbacks = field(default_factory=Setbacks)
    num_failed_steps: int = 0
    context_token_ids: Sequence[int] = field(init=False)
    prefill: PrefillView | None = None
    decode: DecodeView | None = None
    grant: Reserved | None = None
    num_scheduled: int = 0
    prefix: PromptPrefix | None = None
    expected_cached_tokens: int = 0
    num_cached_tokens: int = 0
    is_prompt_counted: bool = False
    shared_digests: Sequence[int] = ()
    bill: Bill = field(default_factory=Bill)
    armed: bool = False
    num_waits: int = 0
    is_stepping: bool = False
    prefill_worker: str = ""
    decode_worker: str = ""
    token_kv_bytes: int = 0
    answer: AnswerTokens = field(init=False)
    _num_forgiven: int = 0

    def __post_init__(self) -> None:
        self.arrival = self.sequence_id
        self.attempts = Attempts(self.sequence_id, self.arrived_s)
        self.context_token_ids = self.request.prompt_token_ids
        awaits_scores = self.request.params.prompt_logprobs is not None
        self.answer = AnswerTokens(self.num_prompt_tokens, awaits_scores)

    @property
    def token_ids(self) -> Sequence[int]:
        """Those generated so far."""
        return self.answer.token_ids

    @property
    def awaits_scores(self) -> bool:
        """Whether its prompt's log-probabilities are asked for, and are not there: all of it has to
        be computed, whatever is cached."""
        return self.answer.awaits_scores

    @property
    def params(self) -> SamplingParams:
        """What workers are told. Of its prompt's log-probabilities that is said once."""
        params = self.request.params
        if params.prompt_logprobs is None or self.awaits_scores:
            return params
        return replace(params, prompt_logprobs=None)

    @property
    def key(self) -> SequenceKey:
        return SequenceKey(
            self.request.request_id, self.request.choice_index, self.attempts.num_past
        )

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_context_tokens(self) -> int:
        return len(self.context_token_ids)

    @property
    def num_resumed_tokens(self) -> int:
        """Tokens that earlier attempts generated."""
        return self.num_context_tokens - self.num_prompt_tokens

    @property
    def is_resumed(self) -> bool:
        """Whether it had its turn already."""
        return self.setbacks.num_preemptions > 0 or self.num_resumed_tokens > 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and generated: those that another attempt would begin with."""
        return self.num_prompt_tokens + len(self.token_ids)

    @property
    def expected_length(self) -> int:
        """Tokens that the sequence will have when it ends, as far as can be told now."""
        max_tokens = self.request.params.max_tokens
        return self.num_prompt_tokens + self.lengths.expect(len(self.token_ids), max_tokens)

    @property
    def typical_tokens(self) -> int:
        """Tokens of its answer, as answers go."""
        return self.lengths.typical(self.request.params.max_tokens)

    @property
    def max_length(self) -> int:
        """Tokens of the sequence at the most."""
        return self.num_prompt_tokens + self.request.params.max_tokens

    @property
    def needs_decode(self) -> bool:
        """Whether there may be more than the next token, so that a decode worker is needed."""
        return self.max_length - self.num_context_tokens > 1

    @property
    def can_restart(self) -> bool:
        """Whether another attempt is made when a worker is lost, or KV on its way."""
        num_in_a_row = self.setbacks.num_faults - self._num_forgiven
        return self._is_good or num_in_a_row < MAX_RESTARTS

    @property
    def _num_new_tokens(self) -> int:
        """Tokens that this attempt has generated."""
        return len(self.token_ids) - self.num_resumed_tokens

    @property
    def _has_good_step(self) -> bool:
        """Whether a step of this attempt was well, and not only its prompt's, which gives the first
        token."""
        return self._num_new_tokens > 1

    @property
    def _is_good(self) -> bool:
        return self._num_new_tokens >= NUM_GOOD_TOKENS

    @property
    def fails_steps(self) -> bool:
        """Whether it is taken for the cause if a step of it fails now: one did before, and none was
        well since."""
        return self.num_failed_steps > 0 and not self._has_good_step

    @property
    def fails_prompts(self) -> bool:
        """Whether a step failed in which its prompt was computed, and it was not since."""
        return self.num_failed_steps > 0 and not self.token_ids

    @property
    def num_tokens_left(self) -> int:
        """Context tokens that are to be computed and not scheduled."""
        return self.num_context_tokens - max(self.num_scheduled, self.expected_cached_tokens)

    @property
    def is_local(self) -> bool:
        """Whether the worker that decodes computes the prompt, too."""
        return self.decode is not None and self.prefill_worker == self.decode_worker

    def has_left(self, worker: WorkerView) -> bool:
        """Whether all of its KV has moved on from a worker, and all that this tells was told."""
        return self.armed and self.decode is not worker and not self.awaits_scores

    def forget(self, worker: WorkerView) -> None:
        """A worker is gone, and all that it held."""
        if self.prefill is worker:
            self.prefill = None
        if self.decode is worker:
            self.decode = None

    def served_by(self) -> ServedBy:
        """How it was served so far. The decode worker counts once all KV has moved to it, or if
        it computes the prompt itself."""
        has_one_worker = self.prefill_worker == self.decode_worker
        served_by = ServedBy(
            self.prefill_worker,
            decode_worker=self.decode_worker if has_one_worker else "",
            num_cached_tokens=self.num_cached_tokens,
            num_preemptions=self.setbacks.num_preemptions,
            num_losses=self.setbacks.num_losses,
            num_bad_transfers=self.setbacks.num_bad_transfers,
            num_resumed_tokens=self.num_resumed_tokens,
        )
        if self.grant is None or not self.armed:
            return served_by
        num_needed_tokens = self.num_context_tokens - self.grant.num_cached_tokens
        num_moved_tokens = 0 if has_one_worker else num_needed_tokens
        return replace(
            served_by,
            decode_worker=self.decode_worker,
            kv_bytes=num_moved_tokens * self.token_kv_bytes,
        )

    def mark_armed(self) -> None:
        """Its KV is complete on the decode worker."""
        self.armed = True
        self.phase = Phase.DECODING

    def reserve(self, num_tokens: int, preemption_rank: tuple[float, ...]) -> Reserve:
        """Asks a decode worker for the blocks of `num_tokens` tokens: its context, and more."""
        request = self.request
        return Reserve(
            self.sequence_id,
            self.key,
            request.prompt_token_ids,
            headroom_tokens=num_tokens - self.num_context_tokens,
            params=self.params,
            prefix_salt=request.prefix_salt,
            generated_token_ids=tuple(self.context_token_ids[self.num_prompt_tokens :]),
            preemption_rank=preemption_rank,
        )

    def chunk(self, start: int, end: int) -> PrefillChunk:
        """Context tokens `[start, end)` for a prefill worker."""
        last = end == self.num_context_tokens
        return PrefillChunk(
            sequence_id=self.sequence_id,
            start=start,
            token_ids=self.context_token_ids[start:end],
            last=last,
            sequence=self._prefill_sequence() if start == 0 else None,
            next_token_id=self.context_token_ids[end] if self.awaits_scores and not last else None,
        )

    def _prefill_sequence(self) -> PrefillSequence:
        grant, decode = self.grant, self.decode
        destination = None
        if grant and decode:
            destination = Destination(
                decode.address, grant.transfer_id, grant.epoch, grant.num_cached_tokens
            )
        request = self.request
        return PrefillSequence(
            self.key,
            self.num_prompt_tokens,
            self.params,
            destination,
            request.prefix_salt,
            self.num_resumed_tokens,
        )

    def park(self, now: float) -> None:
        """Others need its blocks, and it waits where it is until they are there again."""
        self.setbacks.num_preemptions += 1
        self.attempts.current.park(now)

    def end_attempt(self, now: float, why: AttemptEnd | None = None) -> None:
        """The current attempt ends; `why`, if another follows."""
        attempt = self.attempts.current
        attempt.prefill_worker, attempt.decode_worker = self.prefill_worker, self.decode_worker
        attempt.num_context_tokens = self.num_context_tokens
        attempt.num_tokens = self._num_new_tokens
        attempt.end_s, attempt.end = max(attempt.start_s, now), why

    def restart(self, sequence_id: int, now: float, why: AttemptEnd) -> None:
        """Begin another attempt, which goes on from the tokens that there are."""
        self.end_attempt(now, why)
        if self._is_good:
            self._num_forgiven = self.setbacks.num_faults
        if self._has_good_step:
            self.num_failed_steps = 0
        self.setbacks.count(why)
        self.attempts.next(sequence_id)
        self.sequence_id = sequence_id
        self.context_token_ids = joined(self.request.prompt_token_ids, self.token_ids)
        if self.prefix and self.token_ids:
            self.prefix = self.prefix.grown(self.context_token_ids)
        self.phase = Phase.QUEUED
        self.prefill = self.decode = self.grant = None
        self.prefill_worker = self.decode_worker = ""
        self.num_scheduled = 0
        self.armed = self.is_stepping = False
        self.answer.begin_again()
