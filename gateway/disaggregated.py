"""Prefill workers run the prompts in whole batches, decode workers generate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from gateway.batching import Batching, BatchingContext
from gateway.fleet import DecodeView, FormingBatch, PrefillView
from gateway.generation import Generation, Phase
from gateway.router import choose_decode, with_free_slot
from tandem.core.commands import Admit, PrefillBatch
from tandem.core.errors import Mismatch
from tandem.core.worker import WorkerInfo, WorkerRole


class DisaggregatedBatching(Batching):
    """Composes prefill batches, each as soon as a prefill worker has a place for it, and reserves
    blocks on the decode workers for the prompts in them."""

    roles = (WorkerRole.PREFILL, WorkerRole.DECODE)

    def __init__(self, context: BatchingContext, first_batch_id: int) -> None:
        """Batches are numbered from `first_batch_id` on."""
        super().__init__(context)
        self._batch_ids = count(first_batch_id)

    def check(self, info: WorkerInfo) -> None:
        if info.layout.block_size > self._limits.max_batch_tokens:
            raise Mismatch(
                f"a block of {info.worker_id} has {info.layout.block_size} tokens, more than a "
                f"batch may have ({self._limits.max_batch_tokens})"
            )

    def joined(self, worker: DecodeView) -> None:
        """Its steps need no rule: all prompts are computed elsewhere."""

    def compose(self) -> None:
        for worker in self._fleet.prefill.values():
            self._send_if_complete(worker)
        while any(self._form(worker) for worker in with_free_slot(self._fleet.prefill.values())):
            pass

    def granted(self, generation: Generation) -> None:
        if generation.prefill and generation.prefill.forming:
            generation.prefill.forming.unanswered.discard(generation.sequence_id)

    def _can_ever_run(self, generation: Generation) -> bool:
        fleet = self._fleet
        return any(
            worker.can_ever_hold(generation.num_prompt_tokens) for worker in fleet.prefill.values()
        ) and (
            not generation.needs_decode
            or not fleet.decode
            or any(worker.can_ever_hold(generation.max_length) for worker in fleet.decode.values())
        )

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
        while queued := self._next_queued():
            yield queued

    def _chunk_end(self, generation: Generation, worker: PrefillView, budget: int) -> int | None:
        """Where the next chunk ends: with the prompt, or with a block; None if nothing fits."""
        if generation.num_prompt_tokens - generation.num_scheduled <= budget:
            return generation.num_prompt_tokens
        block_size = worker.info.layout.block_size
        num_blocks = budget // block_size
        return generation.num_scheduled + num_blocks * block_size if num_blocks else None

    def _place(self, generation: Generation, worker: PrefillView) -> bool:
        """Assign the head of the queue to its workers, and reserve; False if there is no room."""
        if not worker.has_room(generation.num_prompt_tokens):
            return False
        decode = None
        if generation.needs_decode:
            decode = choose_decode(self._fleet.decode.values(), worker, generation)
            if decode is None:
                return False
        self._queue.pop()
        if decode:
            self._reserve(generation, decode)
        worker.enter(generation, generation.num_prompt_tokens)
        generation.prefill, generation.prefill_worker = worker, worker.info.worker_id
        generation.phase = Phase.RESERVING
        return True

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
        self._outbox.send(worker, PrefillBatch(batch_id, chunks))
        for generation, _, _ in forming.chunks:
            if generation.phase is Phase.RESERVING:
                generation.phase = Phase.PREFILLING
                if generation.decode:
                    self._outbox.send(generation.decode, Admit(generation.sequence_id))
