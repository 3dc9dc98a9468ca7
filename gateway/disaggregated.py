"""Prefill workers run the prompts in batches, decode workers generate.

A prompt may be computed by a decode worker instead: see `local_prefill.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from math import inf
from typing import NamedTuple

from gateway.batching import Batching, can_any_take
from gateway.decode_view import DecodeView
from gateway.generation import Generation, Phase
from gateway.lifecycle import Lifecycle
from gateway.local_prefill import Backlog, LocalPrefill, LocalPrefillMode
from gateway.prefill_view import FormingBatch, PrefillView
from gateway.router import are_several, choose_decode, choose_prefill, sound
from gateway.shared_state import SharedState
from gateway.stages import AttemptEnd, Stage
from tandem.core.commands import Admit, PrefillBatch
from tandem.core.errors import Mismatch
from tandem.core.worker import WorkerInfo, WorkerRole

# How long a batch is to take: what comes waits for the one that runs and the one behind it.
MAX_BATCH_S = 0.25
# A batch may last as long as so many steps without tokens: most of it goes into its tokens, however
# slow the worker.
MIN_BATCH_STEPS = 4
# Tokens of a batch while nothing is known of the worker's pace.
FIRST_BATCH_TOKENS = 256


class NextPrompt(NamedTuple):
    """The head of the queue, and the prefill worker that is to take it: None if none has room."""

    generation: Generation
    worker: PrefillView | None


class DisaggregatedBatching(Batching):
    """Composes prefill batches, each as soon as a prefill worker has a place for it, and reserves
    blocks on the decode workers for the prompts in them."""

    roles = (WorkerRole.PREFILL, WorkerRole.DECODE)

    def __init__(
        self,
        shared: SharedState,
        lifecycle: Lifecycle,
        first_batch_id: int,
        local_prefill: LocalPrefillMode,
        tpot_target_s: float,
    ) -> None:
        """Batches are numbered from `first_batch_id` on."""
        super().__init__(shared, lifecycle)
        self._batch_ids = count(first_batch_id)
        self._local = None
        if local_prefill != "off":
            only_idle = local_prefill == "idle"
            self._local = LocalPrefill(shared, only_idle=only_idle, tpot_target_s=tpot_target_s)
        self._had_prefill = False

    @property
    def needed_roles(self) -> tuple[WorkerRole, ...]:
        """As `Batching.needed_roles`. Decode workers that may compute prompts do so for all prefill
        workers that are lost, but begin when the first of them has come."""
        return (WorkerRole.DECODE,) if self._local and self._had_prefill else self.roles

    def fleet_changed(self) -> None:
        super().fleet_changed()
        self._had_prefill = self._had_prefill or bool(self._fleet.prefill)

    def check(self, info: WorkerInfo) -> None:
        if info.layout.block_size > self._limits.max_batch_tokens:
            raise Mismatch(
                f"a block of {info.worker_id} has {info.layout.block_size} tokens, more than a "
                f"batch may have ({self._limits.max_batch_tokens})"
            )

    def compose(self) -> None:
        for worker in self._fleet.prefill.values():
            if worker.forming:
                self._send_if_complete(worker)
        retimed = self._take_retimed()
        self._tell_recompute_costs(retimed)
        self._set_budgets(retimed)
        # Again once a batch has got more, and no more often: to ask each worker whether it is the
        # soonest of all would cost the cube of their number.
        head = self._next_for_prefill()
        while forming := self._next_to_form(head):
            self._form(forming, head)
            head = self._next_for_prefill()
        self._share_backlog()

    def granted(self, generation: Generation) -> None:
        if generation.is_local:
            generation.phase = Phase.PREFILLING
            self._begin(generation, Stage.PREFILL_WAIT)
        elif generation.prefill is None:
            # Its batch has left without it.
            self._lifecycle.requeue(generation, AttemptEnd.UNANSWERED)
        elif generation.prefill.forming:
            generation.prefill.forming.unanswered.discard(generation.sequence_id)

    @property
    def _may_wait_for_decode(self) -> bool:
        # Prefill workers, as long as there are any, may be sooner.
        return not self._open_prefill()

    def can_ever_run(self, generation: Generation) -> bool:
        prefill, decode = self._fleet.prefill.values(), self._fleet.decode.values()
        fits_prefill = can_any_take(prefill, generation)
        if not (fits_prefill or self._local):
            return False
        uses_decode = generation.needs_decode or not (prefill and fits_prefill)
        return not uses_decode or can_any_take(decode, generation)

    # Where a prompt is computed

    def _next_for_prefill(self, forming: PrefillView | None = None) -> NextPrompt | None:
        """The head of the queue, once those before it are given to decode workers that are sooner
        with them. Whoever is `forming` a batch has a place for it: one had it when it began."""
        while generation := self._settle_head():
            if not self._give_to_decode(generation):
                return NextPrompt(generation, self._soonest(generation, forming))
        return None

    def _soonest(self, generation: Generation, forming: PrefillView | None) -> PrefillView | None:
        """The prefill worker that would have the first token of the head of the queue first, of
        those that can take it into a batch, and send it to a decode worker with room."""
        free = [each for each in self._open_prefill() if each.has_slot or each is forming]
        if not free:
            return None
        takers = self._takers(generation)
        if not takers and generation.needs_decode:
            return None
        num_tokens = generation.num_context_tokens
        has_others = are_several(self._fleet.decode.values())

        def has_room(worker: PrefillView) -> bool:
            may_send = not generation.needs_decode or any(
                worker.may_send_to(name, num_tokens, has_others=has_others) for name in takers
            )
            return may_send and worker.can_take(generation)

        return choose_prefill(
            free, generation, lambda each: self._first_token_s(each, generation), has_room
        )

    def _waits_for_decode(self) -> bool:
        head = self._queue.peek()
        if head is None or self._takers(head):
            return False
        return head.needs_decode or not self._large_enough(head)

    def _takers(self, generation: Generation) -> list[str]:
        """The decode workers with room for what a prompt becomes."""
        workers = self._fleet.decode.values()
        return [each.info.worker_id for each in workers if each.can_take(generation)]

    def _give_to_decode(self, generation: Generation) -> bool:
        """Have a decode worker compute the head of the queue, if one would have its first token
        sooner than any prefill worker. What ends with that token needs none, if there are those."""
        prefill = self._large_enough(generation)
        if self._local is None or (prefill and not generation.needs_decode):
            return False
        elsewhere_s = min((self._first_token_s(each, generation) for each in prefill), default=inf)
        idle = (each for each in prefill if not each.queued_batches and each.can_take(generation))
        num_idle_tokens = min((each.uncached_tokens(generation) for each in idle), default=inf)
        has_prefill = bool(prefill or self._open_prefill())
        place = self._local.choose(
            generation, self._pace, elsewhere_s, num_idle_tokens, has_prefill=has_prefill
        )
        if place is None:
            return False
        is_patient = place.patience_s > 0
        self._compute_there(
            generation, place.worker, self._clock.now_s + place.patience_s if is_patient else 0.0
        )
        self._set_budgets([place.worker])
        return True

    def _share_backlog(self) -> None:
        """Give decode workers the last of what waits, while that is worth it. Not while the head
        waits for room there: it would go to those behind it for as long as there are any."""
        if self._local is None or not self._queue:
            return
        prefill = self._open_prefill()
        while prefill and (last := self._settle_last()):
            able = self._large_enough(last)
            if able and not last.needs_decode:
                return
            elsewhere_s = min((self._first_token_s(each, last) for each in able), default=inf)
            num_before = self._queue.num_tokens_left - last.num_tokens_left
            before_s = num_before * self._fleet.token_s() / len(prefill)
            backlog = Backlog((len(self._queue) - 1) / len(prefill), elsewhere_s + before_s)
            worker = self._local.choose_for_last(last, self._pace, backlog)
            if worker is None or self._waits_for_decode():
                return
            self._compute_there(last, worker)
            self._set_budgets([worker])

    def _set_budgets(self, workers: Iterable[DecodeView]) -> None:
        if self._local:
            num_open = len(self._open_prefill())
            num_waiting = len(self._queue) / num_open if num_open else inf
            self._local.set_budgets(workers, self._pace, num_waiting)

    def _open_prefill(self) -> list[PrefillView]:
        return sound(self._fleet.prefill.values(), self._clock.now_s)

    def _large_enough(self, generation: Generation) -> list[PrefillView]:
        """Of the open prefill workers, those that can ever take a generation."""
        return [each for each in self._open_prefill() if each.can_ever_take(generation)]

    def _first_token_s(self, worker: PrefillView, generation: Generation) -> float:
        """In how many seconds a prefill worker would have the first token of a queued generation,
        if it were the next; it does not wait for the transfer."""
        num_tokens = worker.uncached_tokens(generation)
        if started := worker.unfinished:
            num_tokens += self._queue.num_tokens_ahead(generation, started)
        return worker.first_token_s(generation, num_tokens)

    # Batches

    def _next_to_form(self, head: NextPrompt | None) -> PrefillView | None:
        """Of the prefill workers with a place for a batch, and something for it, the one with the
        least to do."""
        taker = head.worker if head else None
        free = (worker for worker in self._fleet.prefill.values() if worker.has_slot)
        return min(
            (worker for worker in free if worker is taker or worker.unfinished),
            key=lambda worker: (worker.num_queued_tokens, worker.info.worker_id),
            default=None,
        )

    def _form(self, worker: PrefillView, head: NextPrompt | None) -> None:
        """Begin a batch of what there is for it: at least one chunk, for a batch has room for a
        block."""
        forming = worker.forming = FormingBatch()
        budget = self._batch_tokens(worker)
        for generation in self._candidates(worker, head):
            end = worker.chunk_end(generation, budget)
            if len(forming.chunks) == self._limits.max_batch_seqs or end is None:
                break
            if forming.chunks and (generation.fails_prompts or forming.chunks[-1][0].fails_prompts):
                # Who may be the cause of a failed step is computed alone.
                break
            if generation.phase is Phase.QUEUED:
                self._place(generation, worker)
                if generation.decode:
                    forming.unanswered.add(generation.sequence_id)
            self._queue.charge(generation, end)
            forming.chunks.append((generation, generation.num_scheduled, end))
            budget -= generation.num_tokens_left - (generation.num_context_tokens - end)
            generation.num_scheduled = end
            if generation.num_tokens_left:
                worker.started[generation.sequence_id] = generation
            else:
                worker.started.pop(generation.sequence_id, None)
        self._send_if_complete(worker)

    def _batch_tokens(self, worker: PrefillView) -> int:
        """Tokens of a batch: what the worker computes in `MAX_BATCH_S`, or in a few times what any
        step takes there, and a block at the least, since a longer prompt's chunk ends with one."""
        times = worker.step_times
        batch_s = max(MAX_BATCH_S, MIN_BATCH_STEPS * times.prompt_step_s)
        num_tokens = times.tokens_within(batch_s, at_first=FIRST_BATCH_TOKENS)
        most = self._limits.max_batch_tokens
        return min(most, max(worker.info.layout.block_size, num_tokens))

    def _candidates(self, worker: PrefillView, head: NextPrompt | None) -> Iterator[Generation]:
        """What a batch goes on with, by the tenants' turns, and each tenant's own in the policy's
        order: prompts that have started there, and the head of the queue, as long as it is placed
        when it is shown."""
        started: defaultdict[str, list[Generation]] = defaultdict(list)
        for each in sorted(worker.unfinished, key=self._queue.rank, reverse=True):
            started[each.request.tenant].append(each)
        if not worker.is_open:
            head = None
        while True:
            firsts = [each[-1] for each in started.values() if each]
            following = self._queue.next_of(head.generation if head else None, firsts)
            if following is None:
                return
            if head and following is head.generation:
                if head.worker is not worker:
                    head = None
                    continue
            else:
                started[following.request.tenant].pop()
            yield following
            if head:
                head = self._next_for_prefill(worker)

    def _place(self, generation: Generation, worker: PrefillView) -> None:
        """Assign the head of the queue to its workers, which have room, and reserve."""
        decode = None
        if generation.needs_decode:
            workers = self._fleet.decode.values()
            decode = choose_decode(workers, worker, generation, self._clock.now_s)
        self._take(generation)
        generation.expected_cached_tokens = worker.cached_tokens(generation)
        if decode:
            self._reserve(generation, decode)
        worker.enter(generation, worker.blocks_for(generation.num_context_tokens))
        generation.prefill, generation.prefill_worker = worker, worker.info.worker_id
        generation.phase = Phase.RESERVING
        self._queue.begun(generation, worker)

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
        worker.batches[batch_id] = forming.num_tokens
        chunks = tuple(each.chunk(start, end) for each, start, end in forming.chunks)
        max_tokens = self._limits.max_batch_tokens
        self._outbox.send(worker, PrefillBatch(batch_id, chunks, max_tokens))
        for generation, _, _ in forming.chunks:
            generation.attempts.current.joins(batch_id, len(chunks))
            if generation.phase is Phase.RESERVING:
                generation.phase = Phase.PREFILLING
                self._begin(generation, Stage.PREFILL_WAIT)
                if generation.decode:
                    self._outbox.send(generation.decode, Admit(generation.sequence_id))
