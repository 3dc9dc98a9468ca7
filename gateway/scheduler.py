"""All scheduling decisions: pure, synchronous, without a clock of their own.

What happens goes in as calls (a request, a cancel, a worker's report, a worker lost); what is to be
done comes out as effects (a command to a worker, an event to a client). A request's way through it:
`submit` queues, `compose` takes it into a batch and reserves blocks on a decode worker, the grant
completes the batch, the batch goes to the prefill worker, tokens come from the prefill worker (the
first) and the decode worker (all others), and exactly one terminal event ends it. How batches are
composed is the `Batching`'s: `disaggregated.py`, or `colocated.py`, where there are only decode
workers and these compute the prompts, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, repeat
from typing import Any

from gateway.admission import Admission
from gateway.batching import Batching, BatchingContext, Limits
from gateway.colocated import ColocatedBatching
from gateway.colocated_policies import ColocatedPolicy
from gateway.disaggregated import DisaggregatedBatching
from gateway.draining import Draining
from gateway.effects import Effect, Outbox
from gateway.fair_shares import FairShares
from gateway.fleet import Fleet
from gateway.generation import Generation, Phase
from gateway.local_prefill import LocalPrefill
from gateway.output_lengths import OutputLengths
from gateway.policies import QueuePolicy
from gateway.prefill_queue import PrefillQueue
from gateway.self_check import SelfChecks
from gateway.stages import AttemptEnd, Stage
from gateway.tenants import ONE_TENANT, Tenants
from gateway.tokens import Ended, Token, TokenRequest, reported_token, snapshot_tokens
from gateway.worker_view import DecodeView, PoolUse, PrefillView
from tandem.core.commands import DecodeCommand, PrefillBatch, PrefillCommand, Remove, Reserve
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Fenced,
    ResourceExhausted,
    TandemError,
    Unavailable,
    error_of,
)
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import (
    Armed,
    BatchDone,
    DecodeReport,
    DecodeSnapshot,
    FirstToken,
    Preempted,
    PrefillReport,
    PrefillSnapshot,
    PromptTimes,
    Reserved,
    SequenceFailed,
    Span,
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerInfo, WorkerRole

# How long no KV is sent on an edge that has just failed, if there is another.
EDGE_PENALTY_S = 5.0


class Scheduler:
    """The gateway's whole state: its generations, and its view of the workers."""

    def __init__(
        self,
        policy: QueuePolicy,
        limits: Limits,
        first_id: int = 1,
        colocated: ColocatedPolicy | None = None,
        local_prefill: bool = False,
        tenants: Tenants = ONE_TENANT,
        recompute_bad_kv: bool = True,
        self_check_rate: float = 0.0,
    ) -> None:
        """With `colocated`, decode workers compute all prompts as well; with `local_prefill`, those
        that they are sooner with than prefill workers. With `recompute_bad_kv`, what came damaged
        is computed again; else its request fails. Of the answers, a share of `self_check_rate` is
        generated once more, and compared. Sequences and batches are numbered from `first_id` on: to
        the workers, these numbers must be new for as long as they live, also after a gateway was
        replaced."""
        self._fleet = Fleet()
        self._shares = FairShares(tenants, self._fleet)
        self._queue = PrefillQueue(policy, self._shares)
        self._sequence_ids = count(first_id)
        self._lengths = OutputLengths()
        self._now = 0.0
        self._outbox = Outbox()
        self._self_checks = SelfChecks(
            self_check_rate, self._fleet, self._outbox, self._sequence_ids
        )
        context = BatchingContext(
            self._queue,
            self._fleet,
            limits,
            self._outbox,
            self._end,
            self._is_late,
            self._self_checks.make_way,
            self._time,
        )
        max_tokens = limits.max_batch_tokens
        local = LocalPrefill(self._fleet, self._outbox, max_tokens) if local_prefill else None
        self._batching: Batching = (
            ColocatedBatching(context, colocated)
            if colocated
            else DisaggregatedBatching(context, first_id, local)
        )
        self._recompute_bad_kv = recompute_bad_kv
        self._admission = Admission(self._fleet, self._queue, limits, tenants, self.roles)
        self.draining = Draining(self._fleet, self._outbox, self.roles, self._hand_over)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order, since the last call."""
        return self._outbox.take()

    def compose(self) -> None:
        """Give the workers what they can take. To be called after anything has happened."""
        self._batching.compose()
        self._self_checks.compose(is_anyone_queued=self.num_queued > 0)
        self.draining.dismiss()

    @property
    def workers(self) -> list[PrefillView | DecodeView]:
        return self._fleet.workers

    @property
    def num_queued(self) -> int:
        """Generations that no worker has yet."""
        return len(self._queue)

    @property
    def num_queued_tokens(self) -> int:
        """Prompt tokens of these."""
        return self._queue.num_tokens

    @property
    def num_in_flight(self) -> Mapping[str, int]:
        """Generations that have not ended, by tenant."""
        return self._admission.num_in_flight

    @property
    def generations(self) -> Iterator[Generation]:
        """These, each tenant's oldest first."""
        return self._admission.generations

    @property
    def roles(self) -> tuple[WorkerRole, ...]:
        """Those that a request needs a worker of each."""
        return self._batching.roles

    @property
    def is_ready(self) -> bool:
        """Whether there is a worker of each role, and not only such as drain."""
        return self._fleet.missing(self.roles) is None

    def advance(self, now: float) -> None:
        """It is `now`, in monotonic seconds. To be called before what happens at a time that is not
        given: time goes on, never back."""
        self._now = max(self._now, now)

    # Requests

    def check_room(self, tenant: str, num_choices: int, deadline_s: float, now: float) -> None:
        """Raise what `submit` would, as far as it can be told without the prompts."""
        self.advance(now)
        self._admission.check_room(tenant, num_choices, deadline_s, self._now)

    def submit(self, request: TokenRequest, now: float = 0.0) -> Generation:
        """Queue a request, at `now` in monotonic seconds. Raises what `Admission.enter` does."""
        self.advance(now)
        number, token_s = next(self._sequence_ids), self._fleet.token_s()
        generation = Generation(request, number, self._now, token_s, self._lengths)
        generation.prefix = self._fleet.prefix_of(request)
        generation.expected_cached_tokens = self._fleet.cached_tokens(generation)
        self._admission.enter(generation, self._now)
        self._queue.push(generation)
        return generation

    @property
    def next_deadline_s(self) -> float:
        """When `expire` is to be called next; infinity if nothing has a deadline."""
        return min(self._admission.deadlines.next_s, self.draining.next_s(self._now))

    def expire(self, now: float) -> None:
        """End what should have ended by `now`, and hand over what should be elsewhere."""
        self.advance(now)
        for generation in self._admission.deadlines.due(self._now):
            self._end(generation, DeadlineExceeded("the request's time is over"))
        self.draining.hand_over(self._now)

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
        self._batching.check(info)
        self._fleet.check(info)

    def worker_joined(self, info: WorkerInfo, address: str) -> None:
        """A worker is there, and holds nothing."""
        is_prefill = info.role is WorkerRole.PREFILL
        worker = PrefillView(info, address) if is_prefill else DecodeView(info, address)
        self._fleet.join(worker)
        if isinstance(worker, DecodeView):
            self._batching.joined(worker)
        self.draining.joined(worker, self._now)

    def worker_lost(self, worker_id: str, error: TandemError) -> None:
        """A worker is gone, with all it held. Of its generations, those whose KV had left it go on;
        the others go on elsewhere, from the token that they had reached, or fail with `error` if
        that was tried too often."""
        if prefill := self._fleet.prefill.pop(worker_id, None):
            self.draining.forget(prefill)
            for generation in list(prefill.generations.values()):
                generation.prefill = None
                if not generation.armed:
                    self._restart_or_end(generation, error)
        if decode := self._fleet.decode.pop(worker_id, None):
            self.draining.forget(decode)
            self._self_checks.lost(worker_id)
            for generation in list(decode.generations.values()):
                generation.decode = None
                self._restart_or_end(generation, error)

    def worker_suspected(self, worker_id: str) -> None:
        """A worker may be lost. It gets nothing new until it is trusted again, and what it has goes
        on with another worker, if there is one."""
        worker = self._fleet.of(worker_id)
        worker.suspect = True
        if self._fleet.has_open(worker.info.role):
            for generation in list(worker.generations.values()):
                if generation.can_restart and not generation.has_left(worker):
                    self._restart(generation)

    def worker_trusted(self, worker_id: str) -> None:
        """A worker that was suspected is well, and holds what it held."""
        self._fleet.of(worker_id).suspect = False
        self.draining.hand_over(self._now)

    def _restart_or_end(self, generation: Generation, error: TandemError) -> None:
        if generation.can_restart:
            self._restart(generation)
        else:
            self._end(generation, error)

    def _restart(self, generation: Generation) -> None:
        generation.num_losses += 1
        self._requeue(generation, AttemptEnd.WORKER_LOST)

    def _hand_over(self, generation: Generation) -> None:
        self._requeue(generation, AttemptEnd.DRAINED)

    # Reports

    def report(self, worker_id: str, report: Any) -> None:
        """Take a worker's report: a `PrefillReport` or a `DecodeReport`, as its role is. One that
        comes again changes nothing."""
        match self._fleet.of(worker_id):
            case PrefillView() as prefill:
                self._prefill_report(prefill, report)
            case DecodeView() as decode:
                self._decode_report(decode, report)

    def resumed(self, worker_id: str, snapshot: Any, unapplied: Sequence[Any]) -> None:
        """A worker's stream is back, with the snapshot of its role. `unapplied` are commands that
        it has yet to see."""
        match self._fleet.of(worker_id):
            case PrefillView() as prefill:
                self._prefill_resumed(prefill, snapshot, unapplied)
            case DecodeView() as decode:
                self._decode_resumed(decode, snapshot, unapplied)

    def _prefill_report(self, worker: PrefillView, report: PrefillReport) -> None:
        if isinstance(report, BatchDone):
            worker.batches.pop(report.batch_id, None)
            return
        generation = worker.generations.get(report.sequence_id)
        if generation is None:
            return
        match report:
            case FirstToken():
                worker.prompt_begins(generation, report.num_cached_tokens)
                # What ends with this token has no transfer, or none that is waited for.
                then = Stage.TRANSFER if report.finish_reason is None else Stage.PREFILL
                self._computed(worker, generation, report.prompt_times, then)
                self._accept(generation, reported_token(report), report.finish_reason)
            case TransferDone():
                self._leave_prefill(generation)
            case SequenceFailed() if generation.armed:
                self._leave_prefill(generation)
            case SequenceFailed():
                self._prefill_failed(worker, generation, error_of(report.reason, report.message))

    def _prefill_failed(
        self, worker: PrefillView, generation: Generation, error: TandemError
    ) -> None:
        """A prompt's computing or sending failed. If it is the decode worker that cannot be reached
        or has given the reservation up, that is a loss like any other. Of KV that came damaged no
        token was computed: it is computed again, and sent another way if there is one."""
        if isinstance(error, Unavailable | DataLoss):
            worker.failed_edges[generation.decode_worker] = self._now + EDGE_PENALTY_S
        if isinstance(error, Unavailable | Fenced):
            self._restart_or_end(generation, error)
        elif isinstance(error, DataLoss) and self._recompute_bad_kv and generation.can_restart:
            generation.num_bad_transfers += 1
            self._requeue(generation, AttemptEnd.BAD_KV)
        else:
            self._end(generation, error)

    def _decode_report(self, worker: DecodeView, report: DecodeReport) -> None:
        if isinstance(report, StepDone):
            self._step_done(worker, report)
            return
        generation = worker.generations.get(report.sequence_id)
        if generation is None:
            self._self_checks.report(worker, report)
            return
        match report:
            case Reserved():
                worker.answered(report.sequence_id)
                self._granted(generation, report)
            case Armed():
                worker.armed(generation)
                generation.attempts.current.begin(Stage.ARMED_WAIT, worker.local_s(report.at_ns))
                self._accept(generation, reported_token(report), report.finish_reason)
            case Preempted():
                generation.num_preemptions += 1
                if report.parked:
                    generation.attempts.current.park(self._now)
                else:
                    self._requeue(generation, AttemptEnd.PREEMPTED)
            case SequenceFailed(_, ResourceExhausted.reason, _) if (
                generation.phase is Phase.RESERVING
            ):
                self._requeue(generation, AttemptEnd.REFUSED)
                worker.refused(generation)
            case SequenceFailed():
                self._end(generation, error_of(report.reason, report.message))

    def heard(
        self,
        worker_id: str,
        use: PoolUse,
        now: float,
        spans: Sequence[Span] = (),
        cache_changes: CacheChanges | None = None,
        clock_offset_ns: int = 0,
    ) -> bool:
        """A worker says how much room it has, at `now` in monotonic seconds, what it did, and what
        has changed of what it has cached. `clock_offset_ns`, added to its clock, gives this one's.
        True if it may take now what waits."""
        self.advance(now)
        worker = self._fleet.of(worker_id)
        worker.clock_offset_ns = clock_offset_ns
        worker.heard(self._now, spans)
        if cache_changes:
            worker.prefix_index.apply(cache_changes)
        may_take_more = worker.has_said(use)
        return may_take_more and (self.num_queued > 0 or self._self_checks.is_waiting)

    def _prefill_resumed(
        self, worker: PrefillView, snapshot: PrefillSnapshot, unapplied: Sequence[PrefillCommand]
    ) -> None:
        for report in snapshot.reports:
            self._prefill_report(worker, report)
        to_come = [command for command in unapplied if isinstance(command, PrefillBatch)]
        batch_ids = {*snapshot.batch_ids, *(batch.batch_id for batch in to_come)}
        worker.batches = {
            batch_id: tokens for batch_id, tokens in worker.batches.items() if batch_id in batch_ids
        }
        named = {chunk.sequence_id for batch in to_come for chunk in batch.chunks}
        self._fail_missing(worker, named.union(snapshot.sequence_ids))

    def _decode_resumed(
        self, worker: DecodeView, snapshot: DecodeSnapshot, unapplied: Sequence[DecodeCommand]
    ) -> None:
        for each in snapshot.sequences:
            self._decode_report(worker, each.reserved)
            for token in snapshot_tokens(each):
                generation = worker.generations.get(each.sequence_id)
                if generation is None:
                    break
                last = token.position + 1 == each.position + len(each.token_ids)
                worker.armed(generation)
                self._accept(generation, token, each.finish_reason if last else None)
        present = {each.sequence_id for each in snapshot.sequences}
        named = {each.sequence_id for each in unapplied if isinstance(each, Reserve)}
        self._fail_missing(worker, present | named)

    # Inside

    def _time(self) -> float:
        return self._now

    def _is_late(self, generation: Generation) -> bool:
        return self._admission.is_late(generation, self._now)

    def _granted(self, generation: Generation, grant: Reserved) -> None:
        if generation.phase is Phase.RESERVING:
            generation.grant = grant
            if generation.is_local and generation.decode:
                generation.decode.prompt_begins(generation, grant.num_cached_tokens)
                generation.num_scheduled = grant.num_cached_tokens
            self._batching.granted(generation)

    def _step_done(self, worker: DecodeView, step: StepDone) -> None:
        self._shares.stepped(worker, step.sequence_ids)
        for sequence_id, times in step.computed:
            if generation := worker.generations.get(sequence_id):
                self._computed(worker, generation, times, Stage.DECODE)
        tokens = map(Token, step.positions, step.token_ids, step.logprobs or repeat(None))
        rows = zip(step.sequence_ids, tokens, step.finish_reasons, strict=True)
        for sequence_id, token, reason in rows:
            if generation := worker.generations.get(sequence_id):
                if not generation.is_stepping:
                    generation.is_stepping = True
                    worker.armed(generation)
                    generation.attempts.current.begin(Stage.DECODE, worker.local_s(step.start_ns))
                self._accept(generation, token, reason)
            else:
                self._self_checks.token(worker, sequence_id, token.token_id, reason is not None)

    def _computed(
        self,
        worker: PrefillView | DecodeView,
        generation: Generation,
        times: PromptTimes | None,
        then: Stage,
    ) -> None:
        """A worker has computed a generation's prompt, which is in the stage `then` since."""
        if times:
            attempt = generation.attempts.current
            attempt.num_steps = times.num_steps
            attempt.begin(Stage.PREFILL, worker.local_s(times.start_ns))
            attempt.begin(then, worker.local_s(times.end_ns))

    def _accept(self, generation: Generation, token: Token, reason: FinishReason | None) -> None:
        try:
            tokens, ended = generation.accept(token, reason)
        except DataLoss as error:
            self._end(generation, error)
            return
        for each in tokens:
            self._outbox.emit(generation, each)
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
        if isinstance(event, Ended):
            self._lengths.observe(len(generation.token_ids))
        self._admission.leave(generation, self._now)
        generation.end_attempt(self._now)
        generation.phase = Phase.ENDED
        self._outbox.emit(generation, event)
        self._leave_decode(generation)
        if not generation.armed:
            self._leave_prefill(generation)
        self._self_checks.ended(generation, event)

    def _requeue(self, generation: Generation, why: AttemptEnd) -> None:
        """Take a generation from its workers, and put it back to its place in the queue."""
        if generation.phase is Phase.RESERVING:
            # Nothing was computed of what its tenant was charged for.
            self._shares.give_back(generation)
        self._leave_decode(generation)
        self._leave_prefill(generation)
        generation.restart(next(self._sequence_ids), self._now, why)
        # Its rank is by what is not cached, and stays while it is queued.
        generation.expected_cached_tokens = self._fleet.cached_tokens(generation)
        self._queue.push(generation)

    def _leave_decode(self, generation: Generation) -> None:
        if worker := generation.decode:
            generation.decode = None
            worker.leave(generation)
            self._outbox.send(worker, Remove(generation.sequence_id))

    def _leave_prefill(self, generation: Generation) -> None:
        if worker := generation.prefill:
            generation.prefill = None
            worker.leave(generation)
            self._outbox.send(worker, Remove(generation.sequence_id))

    def _fail_missing(self, worker: PrefillView | DecodeView, present: set[int]) -> None:
        """Generations that a worker should hold and does not: their failure's report was lost. Of
        those with an open reservation only the decode worker knows yet."""
        for generation in list(worker.generations.values()):
            if generation.sequence_id in present:
                continue
            if generation.phase is not Phase.RESERVING:
                error = Unavailable(f"{worker.info.worker_id} lost the request")
                self._restart_or_end(generation, error)
            elif generation.decode is worker:
                self._requeue(generation, AttemptEnd.REFUSED)
