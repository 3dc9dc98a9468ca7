"""Decode workers alone: each computes the prompts of the sequences that it generates.

The yardstick of disaggregation, and what to run where that does not pay. A worker's steps follow a
standing rule (`StepRule`), so it never waits for the gateway; which prompts it has, and when it
gets more, is decided here.
"""

from __future__ import annotations

from gateway.batching import Batching, can_any_take
from gateway.colocated_policies import ColocatedPolicy
from gateway.decode_view import DecodeView
from gateway.generation import Generation, Phase
from gateway.lifecycle import Lifecycle
from gateway.prefill_view import PrefillView
from gateway.router import choose_colocated, sound
from gateway.shared_state import SharedState
from gateway.stages import Stage
from tandem.core.worker import WorkerInfo, WorkerRole


class ColocatedBatching(Batching):
    """Sends prompts from the queue to decode workers, as the policy allows."""

    roles = (WorkerRole.DECODE,)

    def __init__(self, shared: SharedState, lifecycle: Lifecycle, policy: ColocatedPolicy) -> None:
        super().__init__(shared, lifecycle)
        self._policy = policy

    def check(self, info: WorkerInfo) -> None:
        """Any worker can: a chunk may end anywhere."""

    def timed(self, worker: PrefillView | DecodeView) -> None:
        super().timed(worker)
        if isinstance(worker, DecodeView) and (
            command := worker.set_step_rule(self._policy.rule(worker))
        ):
            self._outbox.send(worker, command)

    def compose(self) -> None:
        self._tell_recompute_costs(self._take_retimed())
        while generation := self._settle_head():
            workers = sound(self._fleet.decode.values(), self._clock.now_s)
            worker = choose_colocated(workers, generation, self._policy.admits)
            if worker is None:
                return
            self._compute_there(generation, worker)

    def granted(self, generation: Generation) -> None:
        generation.phase = Phase.PREFILLING
        self._begin(generation, Stage.PREFILL_WAIT)

    @property
    def _may_wait_for_decode(self) -> bool:
        return not self._policy.closes_batches

    def can_ever_run(self, generation: Generation) -> bool:
        return can_any_take(self._fleet.decode.values(), generation)
