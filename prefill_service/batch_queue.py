"""The batches of a prefill worker: which waits, which runs, and what became of each sequence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.commands import (
    Destination,
    PrefillBatch,
    PrefillChunk,
    PrefillCommand,
    PrefillSequence,
    Remove,
)
from tandem.core.errors import Mismatch, TandemError
from tandem.core.kv import KVLayout
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan, StepResult
from tandem.core.reports import (
    BatchDone,
    FirstToken,
    PrefillReport,
    PrefillSnapshot,
    SequenceFailed,
    TransferDone,
)
from tandem.core.sequence import EndRule
from tandem.engine.protocols import LayerHook
from tandem.worker.preparation import Preparation, Preparations
from tandem.worker.report_log import ReportLog


class Transfers(Protocol):
    """What the queue asks of the sending side. Called under the worker's lock; never waits."""

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        """Open a sequence's transfer."""
        ...

    def layer_hook(self, plan: StepPlan) -> LayerHook:
        """What to call after each layer of a step."""
        ...

    def finish(
        self,
        sequence_id: int,
        first_token_id: int,
        logprobs: TokenLogprobs | None,
        compute_end_ns: int,
    ) -> None:
        """The step that computed the last of a sequence's KV is done."""
        ...

    def abort(self, sequence_id: int) -> None:
        """Drop a sequence's transfer, if there is one."""
        ...


@dataclass(slots=True)
class PrefillingSequence:
    """A sequence's record. `token_ids` are those to compute, chunk by chunk; `reports` is what was
    said of it so far."""

    sequence_id: int
    spec: PrefillSequence
    blocks: SequenceBlocks
    token_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    reports: list[PrefillReport] = field(default_factory=list)
    ended: bool = False


class BatchQueue:
    """A `WorkerState`. Batches run in the order in which they came.

    A sequence gets the blocks of all its tokens with its first chunk, so one that has started can
    always go on. Chunks for which there are no blocks yet stay behind, at the head of the queue.
    So do those whose sample the engine is not prepared for yet, but they let later batches pass.
    """

    def __init__(
        self, *, layout: KVLayout, num_blocks: int, end_rule: EndRule, transfers: Transfers
    ) -> None:
        self._layout = layout
        self._allocator = BlockAllocator(num_blocks)
        self._end_rule = end_rule
        self._transfers = transfers
        self._sequences: dict[int, PrefillingSequence] = {}
        self._batches: dict[int, PrefillBatch] = {}
        self._preparations = Preparations()
        self._in_flight: dict[int, tuple[int, list[PrefillingSequence]]] = {}
        self._reports = ReportLog[PrefillReport]()
        self._num_steps = 0

    @property
    def num_free_blocks(self) -> int:
        return self._allocator.num_free

    # Commands

    def apply(self, command: PrefillCommand) -> None:
        match command:
            case PrefillBatch():
                self._batches[command.batch_id] = command
                for chunk in command.chunks:
                    self._enter(chunk)
            case Remove():
                self._remove(command.sequence_id)

    def _enter(self, chunk: PrefillChunk) -> None:
        if chunk.sequence and chunk.sequence_id not in self._sequences:
            self._sequences[chunk.sequence_id] = PrefillingSequence(
                chunk.sequence_id, chunk.sequence, SequenceBlocks(self._allocator)
            )
            self._preparations.arrive(chunk.sequence_id, chunk.sequence.params)

    def _remove(self, sequence_id: int) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence:
            self._end(sequence)

    def clear(self) -> None:
        self._batches.clear()
        for sequence_id in list(self._sequences):
            self._remove(sequence_id)
        self._reports.clear()

    # Preparing

    def take_preparations(self) -> list[Preparation]:
        return self._preparations.take_due()

    def prepared(self, preparation: Preparation, error: TandemError | None) -> None:
        if self._preparations.done(preparation) and error:
            self._fail(self._sequences[preparation.sequence_id], error)

    # Steps

    def next_step(self) -> StepPlan | None:
        for batch in list(self._batches.values()):
            due = [chunk for chunk in batch.chunks if self._is_due(chunk)]
            prepared = [chunk for chunk in due if self._is_prepared(chunk)]
            ready = [chunk for chunk in prepared if self._allocate(chunk)]
            if len(ready) < len(due):
                rest = tuple(chunk for chunk in due if chunk not in ready)
                self._batches[batch.batch_id] = replace(batch, chunks=rest)
            else:
                del self._batches[batch.batch_id]
            if ready:
                return self._launch(batch.batch_id, ready)
            if prepared:
                return None
            if not due:
                self._reports.append(BatchDone(batch.batch_id, step=0))
        return None

    def next_step_ahead(self) -> StepPlan | None:
        """A batch begins when the one before has ended: it may be the next chunk of its prompts."""
        return None

    def layer_hook(self, plan: StepPlan) -> LayerHook | None:
        return self._transfers.layer_hook(plan)

    def complete(self, plan: StepPlan, result: StepResult, start_ns: int, end_ns: int) -> None:
        sequences = self._land(plan)
        for index, (each, sequence) in enumerate(zip(plan.slices, sequences, strict=True)):
            if sequence.ended:
                continue
            sequence.num_computed = each.end
            token_id = result.tokens[index]
            if error := result.failure_of(index):
                self._fail(sequence, error)
            elif token_id is not None:
                self._first_token(sequence, token_id, result.logprobs_of(index), end_ns)

    def fail(self, plan: StepPlan, error: TandemError) -> None:
        for sequence in self._land(plan):
            self._fail(sequence, error)

    # Transfers

    def transfer_done(self, sequence_id: int, num_bytes: int) -> None:
        """The decode worker has acknowledged all KV of a sequence."""
        sequence = self._sequences.get(sequence_id)
        if sequence:
            self._end(sequence)
            self._tell(sequence, TransferDone(sequence_id, num_bytes))

    def transfer_failed(self, sequence_id: int, error: TandemError) -> None:
        """A sequence's transfer has ended without a commit."""
        sequence = self._sequences.get(sequence_id)
        if sequence:
            self._fail(sequence, error)

    # What the controller is told

    @property
    def has_reports(self) -> bool:
        return bool(self._reports)

    def take_reports(self) -> list[PrefillReport]:
        return self._reports.take()

    @property
    def report_number(self) -> int:
        return self._reports.last_taken

    def acknowledge(self, report_number: int) -> None:
        """A sequence has three reports at the most: they are kept until its `Remove`."""

    def snapshot(self) -> PrefillSnapshot:
        sequences = self._sequences.values()
        return PrefillSnapshot(
            sequence_ids=tuple(self._sequences),
            batch_ids=(
                *(batch_id for batch_id, _ in self._in_flight.values()),
                *self._batches,
            ),
            reports=tuple(report for sequence in sequences for report in sequence.reports),
        )

    # Inside

    def _is_due(self, chunk: PrefillChunk) -> bool:
        """Whether a chunk is still wanted; a sequence whose chunks do not meet fails here."""
        sequence = self._sequences.get(chunk.sequence_id)
        if sequence is None or sequence.ended:
            return False
        if chunk.start != sequence.num_computed:
            self._fail(
                sequence,
                Mismatch(f"chunk at {chunk.start}, computed up to {sequence.num_computed}"),
            )
            return False
        return True

    def _is_prepared(self, chunk: PrefillChunk) -> bool:
        return not (chunk.last and self._preparations.is_pending(chunk.sequence_id))

    def _allocate(self, chunk: PrefillChunk) -> bool:
        sequence = self._sequences[chunk.sequence_id]
        num_blocks = self._layout.blocks_for(sequence.spec.num_tokens)
        if not sequence.blocks.can_grow(num_blocks):
            return False
        sequence.blocks.grow(num_blocks)
        return True

    def _launch(self, batch_id: int, chunks: Iterable[PrefillChunk]) -> StepPlan:
        slices: list[SequenceSlice] = []
        sequences: list[PrefillingSequence] = []
        for chunk in chunks:
            sequence = self._sequences[chunk.sequence_id]
            sequence.token_ids += chunk.token_ids
            sequence.blocks.begin_access()
            sequences.append(sequence)
            slices.append(self._slice(sequence, chunk))
            if chunk.start == 0 and sequence.spec.destination:
                self._transfers.start(chunk.sequence_id, sequence.spec.destination, sequence.blocks)
        self._num_steps += 1
        self._in_flight[self._num_steps] = (batch_id, sequences)
        num_tokens = sum(len(each.token_ids) for each in slices)
        return StepPlan(self._num_steps, tuple(slices), num_prefill_tokens=num_tokens)

    def _slice(self, sequence: PrefillingSequence, chunk: PrefillChunk) -> SequenceSlice:
        end = chunk.start + len(chunk.token_ids)
        return SequenceSlice(
            sequence_id=chunk.sequence_id,
            token_ids=chunk.token_ids,
            start=chunk.start,
            block_table=sequence.blocks.ids[: self._layout.blocks_for(end)],
            sample=self._sample(sequence) if chunk.last else None,
        )

    def _sample(self, sequence: PrefillingSequence) -> SampleSpec:
        spec, token_ids = sequence.spec, sequence.token_ids
        return SampleSpec(
            spec.params,
            spec.key.choice_index,
            prompt_token_ids=token_ids[: spec.num_prompt_tokens],
            token_ids=token_ids[spec.num_prompt_tokens :],
        )

    def _land(self, plan: StepPlan) -> list[PrefillingSequence]:
        """A step is over: its sequences, which no longer use their blocks for it."""
        batch_id, sequences = self._in_flight.pop(plan.number)
        for sequence in sequences:
            sequence.blocks.end_access()
        if batch_id not in self._batches:
            self._reports.append(BatchDone(batch_id, plan.number))
        return sequences

    def _first_token(
        self,
        sequence: PrefillingSequence,
        token_id: int,
        logprobs: TokenLogprobs | None,
        now_ns: int,
    ) -> None:
        spec = sequence.spec
        reason = self._end_rule.finish_reason(
            spec.params, token_id, spec.num_generated_tokens + 1, spec.num_tokens + 1
        )
        self._tell(
            sequence,
            FirstToken(sequence.sequence_id, spec.num_tokens, token_id, reason, logprobs),
        )
        if reason is not None:
            self._end(sequence)
        elif sequence.spec.destination is None:
            self._fail(sequence, Mismatch("a sequence that goes on was given no destination"))
        else:
            self._transfers.finish(sequence.sequence_id, token_id, logprobs, now_ns)

    def _tell(self, sequence: PrefillingSequence, report: PrefillReport) -> None:
        sequence.reports.append(report)
        self._reports.append(report)

    def _fail(self, sequence: PrefillingSequence, error: TandemError) -> None:
        if not sequence.ended:
            self._end(sequence)
            self._tell(sequence, SequenceFailed(sequence.sequence_id, error.reason, error.message))

    def _end(self, sequence: PrefillingSequence) -> None:
        """Drop the transfer, if any, and free the blocks once nobody reads or writes them."""
        sequence.ended = True
        self._preparations.leave(sequence.sequence_id)
        self._transfers.abort(sequence.sequence_id)
        sequence.blocks.release()
