"""The standing plan of a decode worker: the sequences it holds, and what its next step computes.

A step is the next token of every running sequence and, as far as the step rule lets it, tokens of
prompts that this worker computes itself. A sequence comes to run either way: its KV has come from a
prefill worker (it is armed), or its prompt is through the engine here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from decode_service.held_sequence import HeldSequence
from decode_service.parking import KvCopy, KvMove, Mover, Parking
from decode_service.reserving import hold, prefix_of
from decode_service.room import Room
from decode_service.steps_under_way import Chunk, StepsUnderWay
from decode_service.telling import snapshot_of, step_done
from tandem.core.blocks import BlockAllocator
from tandem.core.commands import (
    Admit,
    ReceivedDecodeCommand,
    Remove,
    Reserve,
    SetRecomputeCost,
    SetStepRule,
    Unreadable,
)
from tandem.core.errors import Fenced, Mismatch, ResourceExhausted, TandemError
from tandem.core.kv import KVLayout
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import StepPlan, StepResult, StepRule
from tandem.core.reports import (
    Armed,
    DecodeReport,
    DecodeSnapshot,
    Preempted,
    PromptScores,
    SequenceFailed,
)
from tandem.core.sequence import EndRule
from tandem.engine.protocols import LayerHook
from tandem.transfer.reservation import Released, Reservation
from tandem.worker.hashed_prefixes import HashedPrefixes
from tandem.worker.preparation import Preparation, Preparations
from tandem.worker.report_log import ReportLog

# Until the controller says otherwise.
DEFAULT_STEP_RULE = StepRule(prefill_token_budget=256, mixed=True)
# More than are released while word of it is on its way to their senders.
MAX_UNFILLED = 1024


class StandingPlan:
    """A `WorkerState`. Membership stands until a command, an end or a failure changes it.

    With `prefix_caching` a reservation begins with what is cached of its prompt. Full blocks are
    published once a token was sampled behind them: then they have given numbers.
    """

    def __init__(
        self,
        *,
        layout: KVLayout,
        num_blocks: int,
        max_num_seqs: int,
        end_rule: EndRule,
        clock_ns: Callable[[], int],
        prefix_caching: bool,
        mover: Mover,
        max_parked_bytes: int = 0,
    ) -> None:
        """At most `max_parked_bytes` of the host's memory hold KV of preempted sequences, which
        `mover` copies."""
        self._layout = layout
        self._allocator = BlockAllocator(num_blocks, prefix_caching)
        self.prefix_cache = self._allocator.cache
        self._parking = Parking(layout, self._allocator, max_parked_bytes, mover)
        self._room = Room(layout, self._allocator, self._parking)
        self._max_num_seqs = max_num_seqs
        self._end_rule = end_rule
        self._clock_ns = clock_ns
        self._held: dict[int, HeldSequence] = {}
        self._reservations: dict[bytes, Reservation] = {}
        # The newest of those that were released before all KV had come: it may be on its way.
        self._unfilled: deque[bytes] = deque(maxlen=MAX_UNFILLED)
        self._running: dict[int, HeldSequence] = {}
        self._prompts: dict[int, HeldSequence] = {}
        self.preparations = Preparations()
        self._hashed = HashedPrefixes()
        self._rule = DEFAULT_STEP_RULE
        self._steps = StepsUnderWay(layout)
        self.reports = ReportLog[DecodeReport]()
        self._last_epoch = 0

    @property
    def num_free_blocks(self) -> int:
        """Those for new sequences: what others wait for is not among them."""
        return max(0, self._allocator.num_free - self._num_awaited_blocks)

    @property
    def num_unused_slots(self) -> int:
        # The newest token may have no slot yet.
        block_size = self._layout.block_size
        held = self._held.values()
        return sum(
            max(0, len(each.blocks.ids) * block_size - each.sequence.length) for each in held
        )

    @property
    def _num_awaited_blocks(self) -> int:
        """Those that no newcomer gets: what waiting sequences lack, and what the parked need to
        come back, with what is then to spare."""
        num_parked_blocks = self._parking.num_awaited_blocks
        num_to_spare = len(self._running) if num_parked_blocks else 0
        return self._room.num_awaited + num_parked_blocks + num_to_spare

    # Commands

    def hashing(self, command: ReceivedDecodeCommand) -> Iterator[None]:
        if isinstance(command, Reserve) and self._allocator.prefix_caching:
            prefix = prefix_of(command, self._layout.block_size)
            yield from self._hashed.hashing(command.sequence_id, prefix, command.num_tokens)

    def apply(self, command: ReceivedDecodeCommand) -> None:
        match command:
            case Reserve():
                self._reserve(command)
            case Admit():
                self._admit(command)
            case SetStepRule(rule):
                self._rule = rule
            case SetRecomputeCost(token_s):
                self._parking.recompute_token_s = token_s
            case Remove():
                self._remove(command.sequence_id)
            case Unreadable(sequence_id, why):
                self._refuse(sequence_id, Mismatch(why))

    def _reserve(self, command: Reserve) -> None:
        """A repeated command changes nothing."""
        hashed = self._hashed.take(command.sequence_id)
        if command.sequence_id in self._held:
            return
        try:
            if len(self._held) >= self._max_num_seqs:
                raise ResourceExhausted(f"the worker holds {self._max_num_seqs} sequences already")
            epoch, num_to_spare = self._last_epoch + 1, self._num_awaited_blocks
            prefix = hashed or prefix_of(command, self._layout.block_size)
            held = hold(command, prefix, self._allocator, self._layout, epoch, num_to_spare)
        except ResourceExhausted as error:
            self._refuse(command.sequence_id, error)
            return
        self._last_epoch = epoch
        self._held[command.sequence_id] = held
        self._reservations[held.grant.transfer_id] = held.reservation
        request_id = command.key.request_id
        self.preparations.arrive(command.sequence_id, command.params, request_id)
        self.reports.append(held.grant)

    def _admit(self, command: Admit) -> None:
        held = self._held.get(command.sequence_id)
        if held is None or held.admitted or held.ended:
            return
        held.admitted = True
        if command.compute and not held.armed:
            # No frame may come from now on: the engine writes these blocks.
            held.reservation.close()
            del self._reservations[held.reservation.transfer_id]
            held.compute_here()
            self._prompts[command.sequence_id] = held
        self._go_on(held)

    def _remove(self, sequence_id: int) -> None:
        held = self._held.pop(sequence_id, None)
        if held:
            self._end(held)

    def clear(self) -> None:
        for sequence_id in list(self._held):
            self._remove(sequence_id)
        self._hashed.clear()
        self.reports.clear()
        self._rule = DEFAULT_STEP_RULE
        self._parking.recompute_token_s = 0.0

    # Preparing

    def prepared(self, preparation: Preparation, error: TandemError | None) -> None:
        if self.preparations.done(preparation):
            held = self._held[preparation.sequence_id]
            if error:
                self._fail(held, error)
            else:
                self._go_on(held)

    # The reservation book

    def reservation(self, transfer_id: bytes, epoch: int) -> Reservation:
        reservation = self._reservations.get(transfer_id)
        if reservation is None or reservation.epoch != epoch:
            if transfer_id in self._unfilled:
                raise Released("the reservation was released before its transfer was opened")
            raise Fenced("no such reservation: it was never made, or its sequence has ended")
        return reservation

    def reservation_complete(self, reservation: Reservation) -> None:
        held = self._held[reservation.sequence_id]
        token_id = reservation.first_token_id
        if held.armed or token_id is None:
            return
        held.armed = True
        held.blocks.publish(held.prefix, held.num_context_tokens)
        position = held.sequence.length
        logprobs = reservation.first_token_logprobs
        reason = held.sequence.append(token_id, self._end_rule)
        armed = Armed(
            held.sequence.sequence_id, position, token_id, self._clock_ns(), reason, logprobs
        )
        held.reported(self.reports.append(armed), logprobs)
        if reason is not None:
            self._end(held)
        else:
            self._go_on(held)

    # Steps

    def next_step(self) -> StepPlan | None:
        chunks = self._next_chunks()
        running: list[HeldSequence] = []
        if self._rule.mixed or not chunks:
            running = self._room.make(list(self._running.values()), self._preempt)
            self._parking.bring_back(num_to_spare=self._room.num_awaited + len(running))
        if not running and not chunks:
            return None
        return self._steps.launch(running, chunks)

    def next_step_ahead(self) -> StepPlan | None:
        """As long as no prompt is computed here, none is to come back, and the tokens under way are
        all that is wanted to sample the next. A sequence that these end is in a step too many,
        whose token for it is dropped; its blocks are free when that is over."""
        if self._prompts or self._parking.has_parked:
            return None
        if not all(held.can_run_ahead for held in self._running.values()):
            return None
        going_on = [held for held in self._running.values() if not self._ends_next(held)]
        if not self._room.fits(going_on):
            return None  # The step under way may free some.
        self._room.nobody_waits()
        return self._steps.launch(going_on, []) if going_on else None

    def moved(self, move: KvMove, copy: KvCopy | None, seconds: float) -> None:
        """The KV of a parked sequence was copied, out or back; without a `copy`, in vain."""
        held = self._parking.moved(move, copy, seconds)
        if copy is None and not move.held.ended:
            self._forget(move.held)
        elif held:
            self._running[held.sequence.sequence_id] = held

    def layer_hook(self, plan: StepPlan) -> LayerHook | None:
        return None

    def complete(self, plan: StepPlan, result: StepResult, start_ns: int, end_ns: int) -> None:
        stepped: list[HeldSequence] = []
        computed: list[HeldSequence] = []
        logprobs: list[TokenLogprobs | None] = []
        for index, (each, held) in enumerate(zip(plan.slices, self._steps.land(plan), strict=True)):
            token_id = result.tokens[index]
            if held.ended:
                continue
            if error := result.failure_of(index):
                self._fail(held, error)
                continue
            if not held.armed and held.computed(each.end, start_ns, result.scores_of(index)):
                del self._prompts[held.sequence.sequence_id]
                self._running[held.sequence.sequence_id] = held
                computed.append(held)
                if held.scores is not None:
                    self.reports.append(PromptScores(held.sequence.sequence_id, held.scores))
            if token_id is not None:
                held.sequence.append(token_id, self._end_rule)
                held.blocks.publish(held.prefix, each.end)
                stepped.append(held)
                logprobs.append(result.logprobs_of(index))
        number = self.reports.append(step_done(plan, start_ns, end_ns, stepped, logprobs, computed))
        for held, own in zip(stepped, logprobs, strict=True):
            held.reported(number, own)
            if held.sequence.finish_reason is not None:
                self._end(held)

    def fail(self, plan: StepPlan, error: TandemError) -> None:
        for held in self._steps.land(plan):
            self._fail(held, error)

    # What the controller is told

    def acknowledge(self, report_number: int) -> None:
        self.reports.acknowledged = report_number
        for held in self._held.values():
            held.acknowledge(report_number)

    def snapshot(self) -> DecodeSnapshot:
        return snapshot_of(self._held.values(), self.reports.num_open)

    # Inside

    def _ends_next(self, held: HeldSequence) -> bool:
        """Whether a sequence ends with the token under way, whatever that is."""
        pending, sequence = held.num_steps_under_way, held.sequence
        return pending > 0 and self._end_rule.ends_by_length(
            sequence.params, len(sequence.token_ids) + pending, sequence.length + pending
        )

    def _next_chunks(self) -> list[Chunk]:
        """The prompts that the next step goes on with, in the order of their admission, and where
        it ends in each."""
        budget = self._rule.budget(is_idle=not self._running)
        chunks: list[Chunk] = []
        for held in self._prompts.values():
            if budget == 0:
                break
            if not held.reservation.is_quiet or self._is_unprepared(held):
                continue  # A frame that came before its `Admit` is still being stored.
            end = min(held.num_context_tokens, held.progress.num_computed + budget)
            budget -= end - held.progress.num_computed
            chunks.append((held, end))
        return chunks

    def _preempt(self, held: HeldSequence) -> None:
        """Take a running sequence's blocks. It is parked, or else it begins anew where there is
        room, behind the tokens that were reported."""
        sequence_id = held.sequence.sequence_id
        if self._parking.takes(held):
            del self._running[sequence_id]
            self._parking.park(held)
            self.reports.append(Preempted(sequence_id, parked=True))
        else:
            self._forget(held)

    def _forget(self, held: HeldSequence) -> None:
        """Let a preempted sequence go on elsewhere."""
        del self._held[held.sequence.sequence_id]
        self._end(held)
        self.reports.append(Preempted(held.sequence.sequence_id))

    def _is_unprepared(self, held: HeldSequence) -> bool:
        return self.preparations.is_pending(held.sequence.sequence_id)

    def _go_on(self, held: HeldSequence) -> None:
        """One of the things that a sequence waited for is there: let it run if it was the last."""
        if held.is_runnable and not self._is_unprepared(held):
            self._running[held.sequence.sequence_id] = held

    def _refuse(self, sequence_id: int, error: TandemError) -> None:
        """Fail a sequence that may not be held."""
        if held := self._held.get(sequence_id):
            self._fail(held, error)
        else:
            self.reports.append(SequenceFailed(sequence_id, error.reason, error.message))

    def _fail(self, held: HeldSequence, error: TandemError) -> None:
        """One that has ended, in a step too many, is past failing."""
        if not held.ended:
            sequence_id = held.sequence.sequence_id
            del self._held[sequence_id]
            self._end(held)
            self.reports.append(SequenceFailed(sequence_id, error.reason, error.message))

    def _end(self, held: HeldSequence) -> None:
        """Fence the sequence's reservation, leave the running ones, free the blocks once quiet."""
        held.ended = True
        self._running.pop(held.sequence.sequence_id, None)
        if not self._running:
            self._room.nobody_waits()
        self._prompts.pop(held.sequence.sequence_id, None)
        self.preparations.leave(held.sequence.sequence_id)
        self._parking.leave(held.sequence.sequence_id)
        self._reservations.pop(held.reservation.transfer_id, None)
        if not held.armed:
            self._unfilled.append(held.reservation.transfer_id)
        held.blocks.release()
