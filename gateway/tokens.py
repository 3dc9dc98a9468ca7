"""Between the gateway's face (HTTP, gRPC, text) and its dispatcher: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count, repeat
from math import inf
from typing import NamedTuple, Protocol

from gateway.prefix_index import PromptPrefix
from gateway.refusals import Refusals
from gateway.tenants import DEFAULT_TENANT
from gateway.tracing.trace import NO_TRACE, RequestTrace
from tandem.core.errors import TandemError
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.reports import Armed, FirstToken, SequenceSnapshot
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason

TokenBytes = Callable[[int], bytes]
"""What a token says by itself: `Tokenizer.token_bytes`."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One choice of one request, tokenised. Validated by whoever builds it.

    Cached KV is shared among those with the same `prefix_salt`. Of two `priority` numbers the lower
    goes first. `deadline_s` is in monotonic seconds: what has not ended by then is ended. `trace`
    is told of its end. `prefix` names the prompt's blocks, if they are hashed already. Behind it
    come `num_behind` other choices of its request, of `num_tokens_behind` tokens at the most; if it
    `repeats_prompt`, its prompt is also that of the one before it.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    choice_index: int = 0
    prefix_salt: bytes = b""
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    deadline_s: float = inf
    trace: RequestTrace = field(default=NO_TRACE, repr=False, compare=False)
    prefix: PromptPrefix | None = field(default=None, repr=False, compare=False)
    num_behind: int = 0
    num_tokens_behind: int = 0
    repeats_prompt: bool = False


class Token(NamedTuple):
    """A token of a stream, whose positions are consecutive. They start at the prompt's length, or,
    if its log-probabilities are asked for, at 0: the first token has none."""

    position: int
    token_id: int
    logprobs: TokenLogprobs | None = None


class ScoredPrompt(NamedTuple):
    """A prompt, and the log-probabilities of all but its first token."""

    token_ids: Sequence[int]
    logprobs: LogprobColumns

    def tokens(self, start: int, end: int) -> list[Token]:
        """Those of some positions, as far as there are any."""
        return [
            Token(position, token_id, self.logprobs[position - 1] if position else None)
            for position, token_id in enumerate(self.token_ids[start:end], start)
        ]


def reported_token(report: FirstToken | Armed) -> Token:
    """The one token that a report of either kind has."""
    return Token(report.position, report.token_id, report.logprobs)


def snapshot_tokens(snapshot: SequenceSnapshot) -> Iterator[Token]:
    """Those of a sequence that a decode worker has generated."""
    positions = count(snapshot.position)
    return map(Token, positions, snapshot.token_ids, snapshot.logprobs or repeat(None))


class ServingMode(IntEnum):
    """Where a request was computed. The numbers are the wire's."""

    NONE = 0
    DISAGGREGATED = 1
    LOCAL = 2


@dataclass(frozen=True, slots=True)
class ServedBy:
    """How a request was served. `decode_worker` is empty if nothing was moved to one: the first
    token was the last; so is `prefill_worker` if nothing was computed. Of the
    prompt, `num_cached_tokens` were cached where it was computed; `kv_bytes` were moved from there
    to the decode worker. It was preempted `num_preemptions` times; it lost a worker, the way to
    it, or a step `num_losses` times, and was computed again because its KV came damaged
    `num_bad_transfers` times; its last attempt went on behind `num_resumed_tokens` generated
    tokens.
    """

    prefill_worker: str
    decode_worker: str
    kv_bytes: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    num_losses: int = 0
    num_bad_transfers: int = 0
    num_resumed_tokens: int = 0

    @property
    def mode(self) -> ServingMode:
        """Whether prompt and answer were computed in one place, by a worker that does both."""
        if not self.prefill_worker:
            return ServingMode.NONE
        if self.prefill_worker == self.decode_worker:
            return ServingMode.LOCAL
        return ServingMode.DISAGGREGATED

    @property
    def mode_name(self) -> str:
        """In answers, logs and metrics."""
        return self.mode.name.lower()


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal event of a stream that did not fail."""

    finish_reason: FinishReason
    served_by: ServedBy


Event = Token | ScoredPrompt | Ended | TandemError
"""What happens to a generation, for its client; the latter two are its one end."""

# Events that are taken at a time, the log-probabilities of likely tokens counted in, which may come
# all at once, and perhaps for many requests: a few tenths of a millisecond of work for each.
MAX_TAKEN = 256


def size_of(event: Token | Ended) -> int:
    """How much of `MAX_TAKEN` an event is."""
    if isinstance(event, Token) and event.logprobs is not None:
        return 1 + len(event.logprobs.top_ids)
    return 1


class TokenStream(Protocol):
    """The tokens of one choice as they come."""

    def subscribe(self, on_events: Callable[[], None]) -> None:
        """Have its one reader called when there is something to take: now, if there is, and from
        then on whenever something comes after all was taken."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether not all was taken."""
        ...

    def take(self) -> Sequence[Token | Ended]:
        """The next events, `MAX_TAKEN` at the most by their size; none if there are none. They are
        tokens, and as the last of all exactly one `Ended`. Raises the `TandemError` that ended the
        generation instead, once, when what came before it was taken."""
        ...

    def stop(self) -> Ended:
        """End the generation because its text is complete (a stop string): what was generated
        beyond is dropped. `take` is not called again."""
        ...

    def cancel(self) -> None:
        """End the generation because nobody waits for it; idempotent, allowed at any time.
        `take` is not called again."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the face must know of the model that the workers run. `max_model_len` is the smallest
    role's limit; `max_sequence_tokens` is what the smallest pool can hold of one sequence, and
    `block_size` what one of its blocks does."""

    name: str
    vocab_size: int
    max_model_len: int
    max_sequence_tokens: int
    block_size: int
    eos_token_ids: frozenset[int] = frozenset()


class TokenService(Protocol):
    """What the dispatcher offers the face."""

    @property
    def model(self) -> ServedModel | None:
        """None until at least one worker of each role has introduced itself."""
        ...

    @property
    def ready(self) -> bool:
        """Whether requests are wanted here, and would be served now."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the gateway stops, and others had better be asked."""
        ...

    @property
    def refusals(self) -> Refusals:
        """Where it counts whom it refuses, and where those are counted who are before it is
        asked."""
        ...

    def check_room(self, tenant: str, num_choices: int, deadline_s: float) -> None:
        """Raise what `submit` would raise for so many choices of a tenant, as far as that can be
        told before their prompts are tokenised."""
        ...

    def reading(self, tenant: str, num_requests: int) -> AbstractContextManager[None]:
        """Let so many requests of a tenant be read: its block is for as long as that takes, and
        they count towards the tenant's quota in it. Raises before the block: `RateLimitExceeded`,
        `InvalidRequest` for more than the tenant may ever have in flight, or `Unavailable` if the
        gateway stops."""
        ...

    def submit(self, request: TokenRequest) -> TokenStream:
        """Queue a request.

        Raises `Unavailable` (no worker of a role, or none that is free in time for the deadline),
        `ResourceExhausted` (queue full) or `RateLimitExceeded` (the tenant's quota), these with
        `retry_after_s`; `DeadlineExceeded` if no worker could be in time, however free;
        `InvalidRequest` for more than the tenant may ever have in flight.
        """
        ...

    def together(self) -> AbstractContextManager[None]:
        """What is submitted or cancelled in the block is decided on once, at its end: else what one
        leaves would be given to another that is about to leave."""
        ...
