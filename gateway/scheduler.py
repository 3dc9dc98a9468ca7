"""All scheduling decisions: pure, synchronous, without a clock.

What happens goes in as calls (a request, a cancel, a worker's report, a worker lost); what is to be
done comes out as effects (a command to a worker, an event to a client). A request's way through it:
`submit` queues, `compose` takes it into a batch and reserves blocks on a decode worker, the grant
completes the batch, the batch goes to the prefill worker, tokens come from the prefill worker (the
first) and the decode worker (all others), and exactly one terminal event ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat

from gateway.effects import Emit, Send
from gateway.fleet import DecodeView, FormingBatch, PrefillView
from gateway.generation import Generation, Phase
from gateway.policies import QueuePolicy
from gateway.router import choose_decode, with_free_slot
from gateway.tokens import Ended, Token, TokenRequest
from tandem.core.commands import (
    Admit,
    DecodeCommand,
    PrefillBatch,
    PrefillCommand,
    Remove,
    Reserve,
)
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    Mismatch,
    ResourceExhausted,
    TandemError,
    Unavailable,
    error_of,
)
from tandem.core.reports import (
    Armed,
    BatchDone,
    DecodeReport,
    DecodeSnapshot,
    FirstToken,
    PrefillReport,
    PrefillSnapshot,
    Reserved,
    SequenceFailed,
    SequenceSnapshot,
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerInfo, WorkerRole

RETRY_AFTER_S = 1.0
# A request whose worker was lost so often before it computed anything may be why.
MAX_RESTARTS = 3
# How many messages of a prefill worker long no KV is sent on an edge that has just failed. A
# worker sends at least two a second.
EDGE_PENALTY = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the gateway takes on. Tokens are prompt tokens."""

    max_batch_tokens: int = 2048
    max_batch_seqs: int = 64
    max_queue: int = 4096


class Scheduler:
    """The gateway's whole state: its generations, and its view of the workers."""

    def __init__(self, queue: QueuePolicy, limits: Limits, first_id: int = 1) -> None:
        """Sequences and batches are numbered from `first_id` on: to the workers, these numbers
        must be new for as long as they live, also after a gateway was replaced."""
        self._queue = queue
        self._limits = limits
        self._prefill: dict[str, PrefillView] = {}
        self._decode: dict[str, DecodeView] = {}
        self._sequence_ids = count(first_id)
        self._batch_ids = count(first_id)
        self._effects: list[Send | Emit] = []

    def take_effects(self) -> list[Send | Emit]:
        """What is to be done, in order, since the last call."""
        effects, self._effects = self._effects, []
        return effects

    @property
    def workers(self) -> list[PrefillView | DecodeView]:
        return [*self._prefill.values(), *self._decode.values()]

    @property
    def is_ready(self) -> bool:
        """Whether there is a worker of each role."""
        return bool(self._prefill) and bool(self._decode)

    # Requests

    def submit(self, request: TokenRequest) -> Generation:
        """Queue a request. Raises `Unavailable` or `ResourceExhausted`."""
        for role, workers in (("prefill", self._prefill), ("decode", self._decode)):
            if not workers:
                raise Unavailable(f"there is no {role} worker", retry_after_s=RETRY_AFTER_S)
        if len(self._queue) >= self._limits.max_queue:
            raise ResourceExhausted("the queue is full", retry_after_s=RETRY_AFTER_S)
        generation = Generation(request, next(self._sequence_ids))
        self._queue.push(generation)
        return generation

    def stop(self, generation: Generation) -> Ended:
        """End a generation whose text is complete. Idempotent."""
        ended = Ended(FinishReason.STOP, generation.served_by())
        self._end(generation, ended)
        return ended

    def cancel(self, generation: Generation) -> None:
        """End a generation that nobody waits for. Idempotent."""
        self._end(generation, Cancelled("the client cancelled the request"))

    def fail_all(self, error: TandemError) -> None:
        """End every generation: the gateway stops."""
        for worker in self.workers:
            for generation in list(worker.generations.values()):
                self._end(generation, error)
        self.fail_queued(error)

    def fail_queued(self, error: TandemError) -> None:
        """End what waits for a worker."""
        while generation := self._queue.peek():
            self._end(generation, error)

    # The fleet

    def check(self, info: WorkerInfo) -> None:
        """Raise `Mismatch`, naming what differs, if a worker does not fit the others or the
        limits."""
        if info.layout.block_size > self._limits.max_batch_tokens:
            raise Mismatch(
                f"a block of {info.worker_id} has {info.layout.block_size} tokens, more than a "
                f"batch may have ({self._limits.max_batch_tokens})"
            )
        for worker in self.workers:
            if worker.info.worker_id == info.worker_id:
                raise Mismatch(f"there is a worker named {info.worker_id} already")
            if misfit := worker.info.misfit(info):
                raise Mismatch(misfit)

    def worker_joined(self, info: WorkerInfo, address: str) -> None:
        """A worker is there, and holds nothing."""
        if info.role is WorkerRole.PREFILL:
            self._prefill[info.worker_id] = PrefillView(info, address)
        else:
            self._decode[info.worker_id] = DecodeView(info, address)

    def worker_lost(self, worker_id: str, error: TandemError) -> None:
        """A worker is gone, with all it held. Of its generations, those that nothing was computed
        for yet are queued again; those whose KV had left it go on; the others fail with `error`."""
        if prefill := self._prefill.pop(worker_id, None):
            for generation in _youngest_first(prefill):
                generation.prefill = None
                self._lost(generation, error, has_its_kv=generation.armed)
        if decode := self._decode.pop(worker_id, None):
            for generation in _youngest_first(decode):
                generation.decode = None
                self._lost(generation, error, has_its_kv=False)

    def _lost(self, generation: Generation, error: TandemError, has_its_kv: bool) -> None:
        if generation.phase is Phase.RESERVING and generation.attempt < MAX_RESTARTS:
            self._requeue(generation)
        elif not has_its_kv:
            self._end(generation, error)

    # Reports

    def prefill_report(self, worker_id: str, report: PrefillReport) -> None:
        """Take a prefill worker's report. One that comes again changes nothing."""
        worker = self._prefill[worker_id]
        if isinstance(report, BatchDone):
            worker.batches.pop(report.batch_id, None)
            return
        generation = worker.generations.get(report.sequence_id)
        if generation is None:
            return
        match report:
            case FirstToken():
                self._accept(generation, _token(report), report.finish_reason)
            case TransferDone():
                self._leave_prefill(generation)
            case SequenceFailed() if generation.armed:
                self._leave_prefill(generation)
            case SequenceFailed():
                error = error_of(report.reason, report.message)
                if isinstance(error, Unavailable):
                    worker.failed_edges[generation.decode_worker] = EDGE_PENALTY
                self._end(generation, error)

    def decode_report(self, worker_id: str, report: DecodeReport) -> None:
        """Take a decode worker's report. One that comes again changes nothing."""
        worker = self._decode[worker_id]
        if isinstance(report, StepDone):
            self._step_done(worker, report)
            return
        generation = worker.generations.get(report.sequence_id)
        if generation is None:
            return
        match report:
            case Reserved():
                self._granted(generation, report)
            case Armed():
                generation.armed = True
                generation.phase = Phase.DECODING
                self._accept(generation, _token(report), report.finish_reason)
            case SequenceFailed() if generation.phase is Phase.RESERVING:
                generation.decode = None
                worker.leave(generation, generation.max_length)
                worker.num_refused_blocks = worker.blocks_for(generation.max_length)
                self._requeue(generation)
            case SequenceFailed():
                self._end(generation, error_of(report.reason, report.message))

    def heard(self, worker_id: str, num_free_blocks: int) -> bool:
        """A worker says how much room it has. True if it had refused a reservation that would fit
        now, so that it can be asked again."""
        if prefill := self._prefill.get(worker_id):
            prefill.forgive_edges()
        worker = self._decode.get(worker_id)
        if worker is None or not 0 < worker.num_refused_blocks <= num_free_blocks:
            return False
        worker.num_refused_blocks = 0
        return True

    def prefill_resumed(
        self, worker_id: str, snapshot: PrefillSnapshot, unapplied: Sequence[PrefillCommand]
    ) -> None:
        """A prefill worker's stream is back. `unapplied` are commands that it has yet to see."""
        worker = self._prefill[worker_id]
        for report in snapshot.reports:
            self.prefill_report(worker_id, report)
        to_come = [command for command in unapplied if isinstance(command, PrefillBatch)]
        batch_ids = {*snapshot.batch_ids, *(batch.batch_id for batch in to_come)}
        worker.batches = {
            batch_id: tokens for batch_id, tokens in worker.batches.items() if batch_id in batch_ids
        }
        named = {chunk.sequence_id for batch in to_come for chunk in batch.chunks}
        self._fail_missing(worker, named.union(snapshot.sequence_ids))

    def decode_resumed(
        self, worker_id: str, snapshot: DecodeSnapshot, unapplied: Sequence[DecodeCommand]
    ) -> None:
        """A decode worker's stream is back. `unapplied` as in `prefill_resumed`."""
        worker = self._decode[worker_id]
        for each in snapshot.sequences:
            self.decode_report(worker_id, each.reserved)
            for token in _snapshot_tokens(each):
                generation = worker.generations.get(each.sequence_id)
                if generation is None:
                    break
                last = token.position + 1 == each.position + len(each.token_ids)
                generation.armed = True
                generation.phase = Phase.DECODING
                self._accept(generation, token, each.finish_reason if last else None)
        present = {each.sequence_id for each in snapshot.sequences}
        named = {each.sequence_id for each in unapplied if isinstance(each, Reserve)}
        self._fail_missing(worker, present | named)

    # Composing batches

    def compose(self) -> None:
        """Give every prefill worker with a free place a batch, as long as there is something to
        put into one. To be called after anything has happened."""
        for worker in self._prefill.values():
            self._send_if_complete(worker)
        while any(self._form(worker) for worker in with_free_slot(self._prefill.values())):
            pass

    def _form(self, worker: PrefillView) -> bool:
        """Begin a batch: chunks of prompts that have started, then prompts from the queue."""
        chunks: list[tuple[Generation, int, int]] = []
        unanswered: set[int] = set()
        budget = self._limits.max_batch_tokens
        for generation in self._candidates(worker):
            end = self._chunk_end(generation, worker, budget)
            if len(chunks) == self._limits.max_batch_seqs or end is None:
                break
            if generation.phase is Phase.QUEUED:
                if self._fail_if_too_long(generation):
                    continue
                if not self._place(generation, worker):
                    break
                if generation.decode:
                    unanswered.add(generation.sequence_id)
            chunks.append((generation, generation.num_scheduled, end))
            budget -= end - generation.num_scheduled
            generation.num_scheduled = end
        if not chunks:
            return False
        worker.forming = FormingBatch(chunks, unanswered)
        self._send_if_complete(worker)
        return True

    def _candidates(self, worker: PrefillView) -> Iterator[Generation]:
        for generation in list(worker.generations.values()):
            if generation.phase is Phase.PREFILLING and not generation.is_fully_scheduled:
                yield generation
        while queued := self._queue.peek():
            yield queued

    def _chunk_end(self, generation: Generation, worker: PrefillView, budget: int) -> int | None:
        """Where the next chunk ends: with the prompt, or with a block; None if nothing fits."""
        if generation.num_prompt_tokens - generation.num_scheduled <= budget:
            return generation.num_prompt_tokens
        block_size = worker.info.layout.block_size
        num_blocks = budget // block_size
        return generation.num_scheduled + num_blocks * block_size if num_blocks else None

    def _fail_if_too_long(self, generation: Generation) -> bool:
        """End a generation that even an empty worker could not hold: the fleet has changed since
        its length was checked, and what waits behind it would wait for ever."""
        fits = any(
            worker.can_ever_hold(generation.num_prompt_tokens) for worker in self._prefill.values()
        ) and (
            not generation.goes_on
            or not self._decode
            or any(worker.can_ever_hold(generation.max_length) for worker in self._decode.values())
        )
        if not fits:
            self._end(generation, ResourceExhausted("no worker can hold this request any more"))
        return not fits

    def _place(self, generation: Generation, worker: PrefillView) -> bool:
        """Assign the head of the queue to its workers, and reserve; False if there is no room."""
        if not worker.has_room(generation.num_prompt_tokens):
            return False
        decode = None
        if generation.goes_on:
            decode = choose_decode(self._decode.values(), worker, generation)
            if decode is None:
                return False
        self._queue.pop()
        worker.enter(generation, generation.num_prompt_tokens)
        generation.prefill, generation.prefill_worker = worker, worker.info.worker_id
        generation.phase = Phase.RESERVING
        if decode:
            self._reserve(generation, decode)
        return True

    def _reserve(self, generation: Generation, worker: DecodeView) -> None:
        worker.enter(generation, generation.max_length)
        generation.decode, generation.decode_worker = worker, worker.info.worker_id
        generation.token_kv_bytes = worker.kv_bytes(1)
        self._send(worker, generation.reserve())

    def _granted(self, generation: Generation, grant: Reserved) -> None:
        worker = generation.prefill
        if generation.phase is Phase.RESERVING and worker and worker.forming:
            generation.grant = grant
            worker.forming.unanswered.discard(generation.sequence_id)

    def _send_if_complete(self, worker: PrefillView) -> None:
        """Send the forming batch once no reservation is open, and tell the decode workers to let
        its sequences join as soon as they are armed."""
        forming = worker.forming
        if forming is None or forming.unanswered:
            return
        worker.forming = None
        if not forming.chunks:
            return
        batch_id = next(self._batch_ids)
        worker.batches[batch_id] = sum(end - start for _, start, end in forming.chunks)
        chunks = tuple(each.chunk(start, end) for each, start, end in forming.chunks)
        self._send(worker, PrefillBatch(batch_id, chunks))
        for generation, _, _ in forming.chunks:
            if generation.phase is Phase.RESERVING:
                generation.phase = Phase.PREFILLING
                if generation.decode:
                    self._send(generation.decode, Admit(generation.sequence_id))

    # Inside

    def _step_done(self, worker: DecodeView, step: StepDone) -> None:
        tokens = map(Token, step.positions, step.token_ids, step.logprobs or repeat(None))
        rows = zip(step.sequence_ids, tokens, step.finish_reasons, strict=True)
        for sequence_id, token, reason in rows:
            if generation := worker.generations.get(sequence_id):
                self._accept(generation, token, reason)

    def _accept(self, generation: Generation, token: Token, reason: FinishReason | None) -> None:
        try:
            tokens, ended = generation.accept(token, reason)
        except DataLoss as error:
            self._end(generation, error)
            return
        self._effects.extend(Emit(generation, token) for token in tokens)
        if ended is not None:
            self._end(generation, Ended(ended, generation.served_by()))

    def _end(self, generation: Generation, event: Ended | TandemError) -> None:
        """The one place where generations end; one that has ended does not end again. An armed
        one's transfer is complete but perhaps not acknowledged: its prefill worker keeps the record
        until it is, or until that fails too."""
        if generation.phase is Phase.ENDED:
            return
        if generation.phase is Phase.QUEUED:
            self._queue.remove(generation)
        generation.phase = Phase.ENDED
        self._effects.append(Emit(generation, event))
        self._leave_decode(generation)
        if not generation.armed:
            self._leave_prefill(generation)

    def _requeue(self, generation: Generation) -> None:
        """Put a generation that was not computed yet back to the head of the queue."""
        self._leave_decode(generation)
        self._leave_prefill(generation)
        generation.restart(next(self._sequence_ids))
        self._queue.push_front(generation)

    def _leave_decode(self, generation: Generation) -> None:
        if worker := generation.decode:
            generation.decode = None
            worker.leave(generation, generation.max_length)
            self._send(worker, Remove(generation.sequence_id))

    def _leave_prefill(self, generation: Generation) -> None:
        if worker := generation.prefill:
            generation.prefill = None
            worker.leave(generation, generation.num_prompt_tokens)
            self._send(worker, Remove(generation.sequence_id))
            if forming := worker.forming:
                forming.chunks = [each for each in forming.chunks if each[0] is not generation]
                forming.unanswered.discard(generation.sequence_id)

    def _fail_missing(self, worker: PrefillView | DecodeView, present: set[int]) -> None:
        """Generations that a worker should hold and does not: their failure's report was lost. Of
        those with an open reservation only the decode worker knows yet."""
        for generation in _youngest_first(worker):
            if generation.sequence_id in present:
                continue
            if generation.phase is not Phase.RESERVING:
                self._end(generation, Unavailable(f"{worker.info.worker_id} lost the request"))
            elif generation.decode is worker:
                self._requeue(generation)

    def _send(
        self, worker: PrefillView | DecodeView, command: DecodeCommand | PrefillCommand
    ) -> None:
        self._effects.append(Send(worker.info.worker_id, command))


def _token(report: FirstToken | Armed) -> Token:
    return Token(report.position, report.token_id, report.logprobs)


def _snapshot_tokens(snapshot: SequenceSnapshot) -> Iterator[Token]:
    positions = count(snapshot.position)
    return map(Token, positions, snapshot.token_ids, snapshot.logprobs or repeat(None))


def _youngest_first(worker: PrefillView | DecodeView) -> list[Generation]:
    """In this order they can be put back to the head of the queue, one by one."""
    return list(reversed(worker.generations.values()))
