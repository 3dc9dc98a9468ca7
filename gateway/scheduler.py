"""All scheduling decisions: pure, synchronous, without a clock of their own.

What happens goes in as calls (a request, a cancel, a worker's report, a worker lost); what is to be
done comes out as effects (a command to a worker, an event to a client). A request's way through it:
`submit` queues, `compose` takes it into a batch and reserves blocks on a decode worker, the grant
completes the batch, the batch goes to the prefill worker, tokens come from the prefill worker (the
first) and the decode worker (all others), and exactly one terminal event ends it.

Its parts: `lifecycle.py` begins and ends generations; `worker_reports.py` takes what the workers
report of them; a `Batching` composes the batches: `disaggregated.py`, or `colocated.py`, where
there are only decode workers and these compute the prompts, too; `draining.py` empties workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Any

from gateway.admission import Admission
from gateway.batching import Batching
from gateway.colocated import ColocatedBatching
from gateway.colocated_policies import ColocatedPolicy
from gateway.decode_view import DecodeView
from gateway.disaggregated import DisaggregatedBatching
from gateway.draining import Draining
from gateway.effects import Effect, Outbox
from gateway.fair_shares import FairShares
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.lifecycle import Lifecycle
from gateway.local_prefill import LocalPrefillMode
from gateway.policies import QueuePolicy
from gateway.prefill_queue import PrefillQueue
from gateway.prefill_view import PrefillView
from gateway.scheduler_clock import SchedulerClock
from gateway.self_check import SelfChecks
from gateway.shared_prompts import SharedPrompts
from gateway.shared_state import Limits, SharedState
from gateway.suspects import Suspects
from gateway.tenants import ONE_TENANT, Tenants
from gateway.tokens import Ended, TokenRequest
from gateway.worker_reports import WorkerReports
from gateway.worker_view import PoolUse
from tandem.core.errors import Cancelled, DeadlineExceeded, TandemError
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import Span
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerInfo, WorkerRole


class Scheduler:
    """The gateway's whole state: its generations, and its view of the workers."""

    def __init__(
        self,
        policy: QueuePolicy,
        limits: Limits,
        first_id: int = 1,
        colocated: ColocatedPolicy | None = None,
        local_prefill: LocalPrefillMode = "off",
        tpot_target_s: float = 0.0,
        tenants: Tenants = ONE_TENANT,
        recompute_bad_kv: bool = True,
        self_check_rate: float = 0.0,
    ) -> None:
        """With `colocated`, decode workers compute all prompts as well; else those that
        `local_prefill` says, if they are no later there than on prefill workers. `tpot_target_s` is
        how long a token of what runs beside these may take, in seconds (0: nobody said; a
        `colocated` policy knows by itself). With `recompute_bad_kv`, what came damaged is computed
        again; else its request fails. Of the answers, a share of `self_check_rate` is generated
        once more, and compared. Sequences and batches are numbered from `first_id` on: to the
        workers, these numbers must be new for as long as they live, also after a gateway was
        replaced."""
        self._clock = SchedulerClock()
        self._outbox = Outbox()
        self._fleet = Fleet()
        shares = FairShares(tenants, self._fleet)
        self._queue = PrefillQueue(policy, shares, SharedPrompts(self._fleet))
        sequence_ids = count(first_id)
        self._self_checks = SelfChecks(self_check_rate, self._fleet, self._outbox, sequence_ids)
        self._admission = Admission(
            self._fleet, self._queue, limits.max_queue, tenants, self._needed_roles
        )
        shared = SharedState(
            limits=limits,
            fleet=self._fleet,
            shares=shares,
            queue=self._queue,
            self_checks=self._self_checks,
            outbox=self._outbox,
            clock=self._clock,
        )
        self._lifecycle = Lifecycle(shared, self._admission, sequence_ids)
        self._batching: Batching = (
            ColocatedBatching(shared, self._lifecycle, colocated)
            if colocated
            else DisaggregatedBatching(
                shared, self._lifecycle, first_id, local_prefill, tpot_target_s
            )
        )
        self._reports = WorkerReports(
            shared, self._lifecycle, self._batching, recompute_bad_kv=recompute_bad_kv
        )
        self.draining = Draining(
            self._fleet,
            self._outbox,
            self._needed_roles,
            self._batching.can_ever_run,
            self._lifecycle,
        )
        self._suspects = Suspects(self._fleet, self._lifecycle, self._needed_roles)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order, since the last call."""
        return self._outbox.take()

    def compose(self) -> None:
        """Give the workers what they can take. To be called after anything has happened."""
        self._batching.compose()
        while not self._queue and self.draining.move_on():
            self._batching.compose()
        self._self_checks.compose(is_anyone_queued=self.num_queued > 0)
        self.draining.dismiss()

    @property
    def workers(self) -> list[PrefillView | DecodeView]:
        return self._fleet.workers

    @property
    def num_queued(self) -> int:
        """Generations that no worker has yet."""
        return self._queue.num_in_all

    @property
    def num_queued_tokens(self) -> int:
        """Prompt tokens of these that are not thought to be cached."""
        return self._queue.num_tokens_left

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
        """Those of the workers that a request goes through."""
        return self._batching.roles

    @property
    def is_ready(self) -> bool:
        """Whether there is a worker of each role that is needed, and not only such as drain: what
        comes is let in, and waits if it has to."""
        return self._fleet.missing(self._needed_roles()) is None

    @property
    def serves_now(self) -> bool:
        """Likewise, and not only such as may be lost: what comes need not wait for one of them."""
        return self._fleet.has_all_open(self._needed_roles())

    def needs(self, worker: PrefillView | DecodeView) -> bool:
        """Whether what comes would be refused without a worker: its role is needed, and all others
        of it drain. For one that may be lost it would wait."""
        role = worker.info.role
        others = (each for each in self.workers if each.info.role is role and each is not worker)
        return role in self._needed_roles() and all(each.is_draining for each in others)

    def advance(self, now: float) -> None:
        """It is `now`, in monotonic seconds. To be called before what happens at a time that is not
        given: time goes on, never back."""
        self._clock.advance(now)

    # Requests

    def check_room(self, tenant: str, num_choices: int, deadline_s: float, now: float) -> None:
        """Raise what `submit` would, as far as it can be told without the prompts."""
        self.advance(now)
        self._admission.check_room(tenant, num_choices, deadline_s, self._clock.now_s)

    def reading(self, tenant: str, num_requests: int) -> AbstractContextManager[None]:
        """As `Admission.reading`."""
        return self._admission.reading(tenant, num_requests)

    def submit(self, request: TokenRequest, now: float = 0.0) -> Generation:
        """Queue a request, at `now` in monotonic seconds. Raises what `Admission.enter` does."""
        self.advance(now)
        return self._lifecycle.begin(request)

    @property
    def next_deadline_s(self) -> float:
        """When `expire` is to be called next; infinity if nothing has a deadline."""
        return min(self._admission.deadlines.next_s, self.draining.next_s)

    def expire(self, now: float) -> None:
        """End what should have ended by `now`, and hand over what should be elsewhere."""
        self.advance(now)
        for generation in self._admission.deadlines.due(self._clock.now_s):
            self._lifecycle.end(generation, DeadlineExceeded("the request's time is over"))
        self.draining.hand_over(self._clock.now_s)

    def stop(self, generation: Generation) -> Ended:
        """End a generation whose text is complete. Idempotent."""
        ended = Ended(FinishReason.STOP, generation.served_by())
        self._lifecycle.end(generation, ended)
        return ended

    def cancel(self, generation: Generation) -> None:
        """End a generation that nobody waits for. Idempotent."""
        self._lifecycle.end(generation, Cancelled("the client cancelled the request"))

    def fail_all(self, error: TandemError) -> None:
        """End every generation: the gateway stops."""
        for worker in self.workers:
            for generation in list(worker.generations.values()):
                self._lifecycle.end(generation, error)
        self.fail_queued(error)

    def fail_queued(self, error: TandemError) -> None:
        """End what waits for a worker."""
        while generation := self._queue.peek():
            self._lifecycle.end(generation, error)

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
        self._batching.fleet_changed()
        if isinstance(worker, DecodeView):
            self._batching.joined(worker)
        self.draining.joined(worker, self._clock.now_s)

    def worker_lost(self, worker_id: str, error: TandemError) -> None:
        """A worker is gone, with all it held. Of its generations, those whose KV had left it go on;
        the others go on elsewhere, from the token that they had reached, or fail with `error` if
        that was tried too often."""
        self._batching.fleet_changed()
        if worker := self._fleet.leave(worker_id):
            self._suspects.lost(worker)
            self.draining.forget(worker)
            self._self_checks.lost(worker_id)
            self._lifecycle.worker_lost(worker, error)

    def worker_suspected(self, worker_id: str) -> None:
        """A worker may be lost: as `Suspects.suspected`."""
        self._suspects.suspected(self._fleet.of(worker_id), self._clock.now_s)

    def worker_trusted(self, worker_id: str) -> None:
        """A worker that was suspected is well, and holds what it held."""
        self._suspects.trusted(self._fleet.of(worker_id), self._clock.now_s)
        self.draining.hand_over(self._clock.now_s)

    # Reports

    def report(self, worker_id: str, report: Any) -> None:
        """As `WorkerReports.take`."""
        self._reports.take(worker_id, report)

    def resumed(self, worker_id: str, snapshot: Any, unapplied: Sequence[Any]) -> None:
        """As `WorkerReports.resumed`."""
        self._reports.resumed(worker_id, snapshot, unapplied)

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
        worker.heard(self._clock.now_s, spans)
        has_moved = self._suspects.heard(worker, self._clock.now_s)
        if spans:
            self._batching.timed(worker)
        if cache_changes:
            worker.prefix_index.apply(cache_changes)
        has_more = worker.take_use(use)
        is_forgiven = worker.forgive(self._clock.now_s)
        is_anyone_waiting = self.num_queued > 0 or self._self_checks.is_waiting
        return has_moved or ((has_more or is_forgiven) and is_anyone_waiting)

    def _needed_roles(self) -> tuple[WorkerRole, ...]:
        return self._batching.needed_roles
