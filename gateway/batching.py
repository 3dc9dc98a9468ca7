"""How queued generations become work for the workers: what all ways of serving have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import ClassVar

from gateway.decode_view import DecodeView
from gateway.generation import Generation, Phase
from gateway.lifecycle import Lifecycle
from gateway.prefill_view import PrefillView
from gateway.shared_state import SharedState
from gateway.stages import Stage
from gateway.step_times import Pace
from tandem.core.commands import Admit, SetRecomputeCost
from tandem.core.errors import DeadlineExceeded, ResourceExhausted
from tandem.core.worker import WorkerInfo, WorkerRole

# A cost that differs by less stays.
COST_CHANGE = 0.5


class Batching(ABC):
    """Takes generations from the queue, places them on workers and tells these what to compute.
    `roles` are those of the workers that a request goes through."""

    roles: ClassVar[tuple[WorkerRole, ...]]

    def __init__(self, shared: SharedState, lifecycle: Lifecycle) -> None:
        self._queue = shared.queue
        self._fleet = shared.fleet
        self._limits = shared.limits
        self._outbox = shared.outbox
        self._lifecycle = lifecycle
        self._self_checks = shared.self_checks
        self._clock = shared.clock
        self._pace = Pace()
        self._is_pace_known = False
        self._retimed: dict[DecodeView, None] = {}

    @property
    def needed_roles(self) -> tuple[WorkerRole, ...]:
        """Those of which there must be a worker each, or nothing new is taken."""
        return self.roles

    @abstractmethod
    def check(self, info: WorkerInfo) -> None:
        """Raise `Mismatch` if a worker cannot be given work within the limits."""

    def joined(self, worker: DecodeView) -> None:
        """A decode worker is there, and knows nothing yet."""
        self.timed(worker)

    def fleet_changed(self) -> None:
        """A worker has come, or is gone."""
        self._is_pace_known = False

    def timed(self, worker: PrefillView | DecodeView) -> None:
        """A worker's steps were timed."""
        if isinstance(worker, DecodeView):
            self._retimed[worker] = None
        if self._fleet.sets_pace(worker):
            self._is_pace_known = False

    @abstractmethod
    def compose(self) -> None:
        """Give work to the workers that can take some. To be called after anything has happened."""

    @abstractmethod
    def granted(self, generation: Generation) -> None:
        """A decode worker has reserved a generation's blocks."""

    @property
    @abstractmethod
    def _may_wait_for_decode(self) -> bool:
        """Whether prompts may wait for one that begins alike, and that a decode worker computes."""

    @abstractmethod
    def can_ever_run(self, generation: Generation) -> bool:
        """Whether the workers, were they empty, would have room for a generation. Those that drain
        count only where all do."""

    def _take_retimed(self) -> list[DecodeView]:
        """Decode workers of which anything was timed anew since the last call: all, if how long a
        token takes in the fleet has changed. What is told the others stays as it is, and is not
        worked out again with whatever happens: who computes anything is timed with each step."""
        retimed, self._retimed = self._retimed, {}
        present = self._fleet.decode
        if not self._is_pace_known:
            self._is_pace_known = True
            before, self._pace = self._pace, self._fleet.pace()
            if before != self._pace:
                return list(present.values())
        return [worker for worker in retimed if present.get(worker.info.worker_id) is worker]

    def _tell_recompute_costs(self, workers: Iterable[DecodeView]) -> None:
        """Tell decode workers what having their KV computed again costs, if that has changed."""
        token_s = self._pace.token_s
        for worker in workers:
            known = worker.recompute_token_s
            if abs(token_s - known) > COST_CHANGE * known:
                worker.recompute_token_s = token_s
                self._outbox.send(worker, SetRecomputeCost(token_s))

    def _settle_head(self) -> Generation | None:
        """The first of the queue that can be served: who cannot ends, or is set aside."""
        return self._settle(self._queue.peek)

    def _settle_last(self) -> Generation | None:
        """Likewise, the last."""
        return self._settle(self._queue.last)

    def _settle(self, pick: Callable[[], Generation | None]) -> Generation | None:
        """The one that is picked of the queue. What even an empty worker could not hold ends here:
        the fleet has changed since its length was checked, and what waits behind it would wait for
        ever. So does what would be computed in vain. What begins like another that is just being
        computed waits for that, if it is in time all the same."""
        while generation := pick():
            if not self.can_ever_run(generation):
                error = ResourceExhausted("no worker that takes requests can hold this one")
                self._lifecycle.end(generation, error)
            elif self._lifecycle.is_late(generation):
                late = DeadlineExceeded("the first token would come after the request's time")
                self._lifecycle.end(generation, late)
            elif (wait := self._queue.worth_waiting(generation)) and not self._lifecycle.is_late(
                generation, after_s=wait.later_s
            ):
                self._queue.set_aside(generation, wait)
            else:
                return generation
        return None

    def _compute_there(
        self, generation: Generation, worker: DecodeView, patient_until_s: float = 0.0
    ) -> None:
        """Have a decode worker compute one that is queued, and go on with it. Until then, in
        monotonic seconds, it makes way for what runs there."""
        self._take(generation)
        generation.expected_cached_tokens = worker.cached_tokens(generation)
        self._queue.charge(generation, generation.num_context_tokens)
        self._reserve(generation, worker)
        generation.prefill_worker = worker.info.worker_id
        worker.own_prompts.add(generation, patient_until_s)
        # Not after the grant: if there is no room after all, the worker ignores it.
        self._outbox.send(worker, Admit(generation.sequence_id, compute=True))
        if self._may_wait_for_decode:
            self._queue.begun(generation, worker)

    def _take(self, generation: Generation) -> None:
        """Take one that is queued, to place it on its workers."""
        self._queue.take(generation)
        self._begin(generation, Stage.RESERVE)

    def _begin(self, generation: Generation, stage: Stage) -> None:
        generation.attempts.current.begin(stage, self._clock.now_s)

    def _reserve(self, generation: Generation, worker: DecodeView) -> None:
        """Ask a decode worker for a generation's first blocks."""
        self._self_checks.make_way(worker)
        reserve = worker.ask(generation, self._queue.preemption_rank(generation))
        generation.phase = Phase.RESERVING
        generation.decode, generation.decode_worker = worker, worker.info.worker_id
        generation.token_kv_bytes = worker.kv_bytes(1)
        self._outbox.send(worker, reserve)


def can_any_take(workers: Collection[PrefillView | DecodeView], generation: Generation) -> bool:
    """Whether a worker, were it empty, would take a generation; if there is none, nobody knows. Who
    drains gets nothing new, and is waited for only if there is nobody else."""
    staying = [each for each in workers if not each.is_draining]
    return not workers or any(each.can_ever_take(generation) for each in staying or workers)
