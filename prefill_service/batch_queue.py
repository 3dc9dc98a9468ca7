"""The batches of a prefill worker: which waits, which runs, and what became of each sequence."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator

from prefill_service.open_batch import OpenBatch
from prefill_service.prefilling_sequence import PrefillingSequence, prefix_up_to
from prefill_service.transfers import Transfers
from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.commands import (
    PrefillBatch,
    PrefillChunk,
    PrefillCommand,
    Remove,
    Unreadable,
)
from tandem.core.errors import Mismatch, ResourceExhausted, TandemError
from tandem.core.kv import KVLayout
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import ScoreSpec, SequenceSlice, StepPlan, StepResult
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
from tandem.worker.hashed_prefixes import HashedPrefixes
from tandem.worker.preparation import Preparation, Preparations
from tandem.worker.report_log import MAX_SNAPSHOT_LOGPROBS, ReportLog


class BatchQueue:
    """A `WorkerState`. Batches run in the order in which they came.

    A sequence gets the blocks of all its tokens with its first chunk, so one that has started can
    always go on. Chunks for which there are no blocks yet stay behind, at the head of the queue,
    and only sequences that have started pass them: it may be these that have the blocks. Chunks
    whose sample the engine is not prepared for yet stay behind, too, and let all others pass; a
    batch of which nothing else is left is done as far as the controller is concerned, which may
    send another.

    With `prefix_caching` it begins with what is cached of its first chunk, unless its prompt's
    log-probabilities are asked for, and its own full blocks are published when its first token is
    sampled: then all of them have given numbers.
    """

    def __init__(
        self,
        *,
        layout: KVLayout,
        num_blocks: int,
        end_rule: EndRule,
        transfers: Transfers,
        prefix_caching: bool,
    ) -> None:
        self._layout = layout
        self._allocator = BlockAllocator(num_blocks, prefix_caching)
        self.prefix_cache = self._allocator.cache
        self._end_rule = end_rule
        self._transfers = transfers
        self._sequences: dict[int, PrefillingSequence] = {}
        self._batches: dict[int, OpenBatch] = {}
        self.preparations = Preparations()
        self._hashed = HashedPrefixes()
        self._in_flight: dict[int, tuple[OpenBatch, list[PrefillingSequence]]] = {}
        self.reports = ReportLog[PrefillReport]()
        # Sequences whose scores the controller may not have, by the report that tells them.
        self._scored: deque[tuple[int, PrefillingSequence]] = deque()
        self._num_steps = 0

    @property
    def num_free_blocks(self) -> int:
        return self._allocator.num_free

    @property
    def num_unused_slots(self) -> int:
        block_size = self._layout.block_size
        held = (each for each in self._sequences.values() if each.blocks.ids)
        return sum(len(each.blocks.ids) * block_size - each.spec.num_tokens for each in held)

    # Commands

    def hashing(self, command: PrefillCommand) -> Iterator[None]:
        if isinstance(command, PrefillBatch) and self._allocator.prefix_caching:
            for chunk in command.chunks:
                sequence = self._sequences.get(chunk.sequence_id)
                if prefix := prefix_up_to(chunk, sequence, self._layout.block_size):
                    yield from self._hashed.hashing(chunk.sequence_id, prefix, chunk.end)

    def apply(self, command: PrefillCommand) -> None:
        match command:
            case PrefillBatch(batch_id, chunks, max_tokens, unreadable):
                self._batches[batch_id] = OpenBatch(batch_id, chunks, max_tokens)
                for chunk in chunks:
                    self._enter(chunk)
                for each in unreadable:
                    self._refuse(each)
            case Remove():
                self._remove(command.sequence_id)

    def _enter(self, chunk: PrefillChunk) -> None:
        if (spec := chunk.sequence) and chunk.sequence_id not in self._sequences:
            self._sequences[chunk.sequence_id] = PrefillingSequence(
                chunk.sequence_id, spec, SequenceBlocks(self._allocator), self._layout.block_size
            )
            self.preparations.arrive(chunk.sequence_id, spec.params, spec.key.request_id)
        if sequence := self._sequences.get(chunk.sequence_id):
            sequence.token_ids.extend(chunk.token_ids)
            if hashed := self._hashed.take(chunk.sequence_id):
                sequence.prefix = hashed.grown(sequence.token_ids)

    def _refuse(self, each: Unreadable) -> None:
        """What has no record gets none: whoever misses this report misses the sequence, too."""
        if sequence := self._sequences.get(each.sequence_id):
            self._fail(sequence, Mismatch(each.why))
        else:
            self.reports.append(SequenceFailed(each.sequence_id, Mismatch.reason, each.why))

    def _remove(self, sequence_id: int) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence:
            self._end(sequence)

    def clear(self) -> None:
        self._batches.clear()
        for sequence_id in list(self._sequences):
            self._remove(sequence_id)
        self._hashed.clear()
        self._scored.clear()
        self.reports.clear()

    # Preparing

    def prepared(self, preparation: Preparation, error: TandemError | None) -> None:
        if self.preparations.done(preparation) and error:
            self._fail(self._sequences[preparation.sequence_id], error)

    # Steps

    def next_step(self) -> StepPlan | None:
        may_start = True
        for batch in list(self._batches.values()):
            ready, batch.chunks = self._divide(batch, may_start)
            if not batch.chunks:
                del self._batches[batch.batch_id]
            if ready:
                return self._launch(batch, ready)
            if any(map(self._is_prepared, batch.chunks)):
                may_start = False
            else:
                self._batch_done(batch, step=0)
        return None

    def _batch_done(self, batch: OpenBatch, step: int) -> None:
        """Say so, once."""
        if not batch.is_done:
            batch.is_done = True
            self.reports.append(BatchDone(batch.batch_id, step))

    def _divide(
        self, batch: OpenBatch, may_start: bool
    ) -> tuple[list[PrefillChunk], list[PrefillChunk]]:
        """What of a batch's chunks can run now, and what is left of them for later: of sequences
        that have not started all, unless they `may_start`."""
        ready: list[PrefillChunk] = []
        rest: list[PrefillChunk] = []
        room = max(batch.max_tokens, self._layout.block_size) if batch.max_tokens else sys.maxsize
        for chunk in filter(self._is_wanted, batch.chunks):
            if not (may_start or self._has_started(chunk)):
                rest.append(chunk)
                continue
            if not self._is_due(chunk):
                continue
            if not (self._is_prepared(chunk) and self._allocate(chunk)):
                rest.append(chunk)
                continue
            head, tail = self._cut(self._uncached(chunk), room)
            if head.token_ids:
                ready.append(head)
                room -= len(head.token_ids)
            if tail.token_ids:
                rest.append(tail)
        return ready, rest

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
            sequence.progress.stepped(each.end, start_ns)
            if sequence.scores is not None and (scores := result.scores_of(index)):
                sequence.scores.extend(scores)
            token_id = result.tokens[index]
            if error := result.failure_of(index):
                self._fail(sequence, error)
            elif token_id is not None:
                sequence.blocks.publish(sequence.prefix, each.end)
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

    def acknowledge(self, report_number: int) -> None:
        """A sequence has three reports at the most: they are kept until its `Remove`, but for its
        scores, which may be large."""
        self.reports.acknowledged = report_number
        while self._scored and self._scored[0][0] <= report_number:
            self._scored.popleft()[1].scores_are_known()

    def snapshot(self) -> PrefillSnapshot:
        """Without those whose scores would make it too large, where much is not acknowledged: the
        controller takes what it misses for failed."""
        sequences: list[PrefillingSequence] = []
        room = MAX_SNAPSHOT_LOGPROBS
        for sequence in self._sequences.values():
            if (num_logprobs := sequence.num_told_logprobs) <= room:
                room -= num_logprobs
                sequences.append(sequence)
        batches = (*(batch for batch, _ in self._in_flight.values()), *self._batches.values())
        return PrefillSnapshot(
            sequence_ids=tuple(each.sequence_id for each in sequences),
            batch_ids=tuple(each.batch_id for each in batches if not each.is_done),
            reports=tuple(report for sequence in sequences for report in sequence.reports),
        )

    # Inside

    def _is_wanted(self, chunk: PrefillChunk) -> bool:
        sequence = self._sequences.get(chunk.sequence_id)
        return sequence is not None and not sequence.ended

    def _has_started(self, chunk: PrefillChunk) -> bool:
        return bool(self._sequences[chunk.sequence_id].blocks.ids)

    def _is_due(self, chunk: PrefillChunk) -> bool:
        """Whether a chunk is the next of its sequence, which fails here if they do not meet."""
        sequence = self._sequences[chunk.sequence_id]
        num_computed = sequence.progress.num_computed
        if chunk.start != num_computed:
            error = Mismatch(f"chunk at {chunk.start}, computed up to {num_computed}")
            self._fail(sequence, error)
            return False
        return True

    def _is_prepared(self, chunk: PrefillChunk) -> bool:
        return not (chunk.last and self.preparations.is_pending(chunk.sequence_id))

    def _allocate(self, chunk: PrefillChunk) -> bool:
        """Let a sequence have the blocks of its prompt, if it has not; False if there are not
        enough."""
        sequence = self._sequences[chunk.sequence_id]
        if self._has_started(chunk):
            return True
        num_tokens = sequence.spec.num_tokens
        # The last token is always computed: the next one comes of it.
        end = 0 if sequence.is_scored else min(chunk.end, num_tokens - 1)
        try:
            sequence.blocks.start(sequence.prefix, end, self._layout.blocks_for(num_tokens))
        except ResourceExhausted:
            return False
        sequence.num_cached_tokens = sequence.blocks.num_shared * self._layout.block_size
        sequence.progress.num_computed = sequence.num_cached_tokens
        if destination := sequence.spec.destination:
            self._transfers.start(chunk.sequence_id, destination, sequence.blocks)
        return True

    def _uncached(self, chunk: PrefillChunk) -> PrefillChunk:
        """A chunk without what is there already."""
        return chunk.without(self._sequences[chunk.sequence_id].progress.num_computed - chunk.start)

    def _cut(self, chunk: PrefillChunk, room: int) -> tuple[PrefillChunk, PrefillChunk]:
        """A chunk's part that has at most `room` tokens, and the rest of it: either may be empty.
        It is cut where a block ends."""
        num_tokens = len(chunk.token_ids)
        if num_tokens > room:
            num_tokens = room // self._layout.block_size * self._layout.block_size
        return chunk.up_to(num_tokens), chunk.without(num_tokens)

    def _launch(self, batch: OpenBatch, chunks: Iterable[PrefillChunk]) -> StepPlan:
        slices: list[SequenceSlice] = []
        sequences: list[PrefillingSequence] = []
        for chunk in chunks:
            sequence = self._sequences[chunk.sequence_id]
            sequence.blocks.begin_access()
            sequences.append(sequence)
            slices.append(self._slice(sequence, chunk))
        self._num_steps += 1
        self._in_flight[self._num_steps] = (batch, sequences)
        num_tokens = sum(len(each.token_ids) for each in slices)
        return StepPlan(self._num_steps, tuple(slices), num_prefill_tokens=num_tokens)

    def _slice(self, sequence: PrefillingSequence, chunk: PrefillChunk) -> SequenceSlice:
        return SequenceSlice(
            sequence_id=chunk.sequence_id,
            token_ids=chunk.token_ids,
            start=chunk.start,
            block_table=sequence.blocks.table(self._layout.blocks_for(chunk.end)),
            sample=sequence.sample_spec() if chunk.last else None,
            table_id=sequence.blocks.table_id,
            score=ScoreSpec.of(sequence.spec.params, chunk.following_ids),
        )

    def _land(self, plan: StepPlan) -> list[PrefillingSequence]:
        """A step is over: its sequences, which no longer use their blocks for it."""
        batch, sequences = self._in_flight.pop(plan.number)
        for sequence in sequences:
            sequence.blocks.end_access()
        if not batch.chunks:
            self._batch_done(batch, plan.number)
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
        number = self._tell(
            sequence,
            FirstToken(
                sequence.sequence_id,
                spec.num_tokens,
                token_id,
                reason,
                logprobs,
                sequence.num_cached_tokens,
                sequence.progress.times(now_ns),
                sequence.scores,
            ),
        )
        if sequence.is_scored:
            self._scored.append((number, sequence))
        if reason is not None:
            self._end(sequence)
        elif sequence.spec.destination is None:
            self._fail(sequence, Mismatch("a sequence that goes on was given no destination"))
        else:
            self._transfers.finish(sequence.sequence_id, token_id, logprobs, now_ns)

    def _tell(self, sequence: PrefillingSequence, report: PrefillReport) -> int:
        """The report's number."""
        sequence.reports.append(report)
        return self.reports.append(report)

    def _fail(self, sequence: PrefillingSequence, error: TandemError) -> None:
        if not sequence.ended:
            self._end(sequence)
            self._tell(sequence, SequenceFailed(sequence.sequence_id, error.reason, error.message))

    def _end(self, sequence: PrefillingSequence) -> None:
        """Drop the transfer, if any, and free the blocks once nobody reads or writes them."""
        sequence.ended = True
        self.preparations.leave(sequence.sequence_id)
        self._transfers.abort(sequence.sequence_id)
        sequence.blocks.release()
