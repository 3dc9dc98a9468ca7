"""The scheduler on the event loop: brings it requests, what links hear and operators' orders, and
keeps its timers. What it decides is carried out by `effect_loop` and `hands`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from typing import Any

import structlog

from gateway.alarm import Alarm
from gateway.decode_view import DecodeView
from gateway.effect_loop import EffectLoop
from gateway.generation import Generation
from gateway.generation_streams import GenerationStream, GenerationStreams
from gateway.hands import GatewayHands
from gateway.lag import Lag
from gateway.prefill_view import PrefillView
from gateway.refusals import Refusals
from gateway.request_metrics import RequestMetrics
from gateway.scheduler import Scheduler
from gateway.timeline import Timeline
from gateway.tokens import Ended, ServedModel, TokenRequest
from gateway.worker_link import WorkerLink
from gateway.worker_view import PoolUse
from tandem.core.errors import Mismatch, TandemError, Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import worker_pb2
from tandem.wire.reports import cache_changes_from_wire
from tandem.wire.tls import Identity, towards_worker

log = structlog.get_logger(__name__)

# How long queued requests wait for a worker of a role that has none.
ORPHAN_S = 10.0


class Dispatcher:
    """A `TokenService` over workers, the `LinkListener` of their links, and their `WorkerAdmin`.

    Everything happens on one event loop, in calls that do not wait: a call changes the scheduler,
    and its `EffectLoop` has carried out what it decided.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        workers: Sequence[tuple[WorkerRole, str]],
        model_fingerprint: str,
        timeline: Timeline,
        clock: Callable[[], float] = time.monotonic,
        identity: Identity | None = None,
        lag: Lag | None = None,
        model_name: str = "",
        tokenizer_fingerprint: str = "",
    ) -> None:
        """`workers` are the roles and addresses to connect to at first; see `add_worker`. `clock`
        tells monotonic seconds. `identity`: who this is to workers, if they ask. While the `lag` is
        too long, no request is taken. `model_name` is for the log. A worker with another tokenizer
        than `tokenizer_fingerprint` is refused, if both are told."""
        self._scheduler = scheduler
        self._model_fingerprint = model_fingerprint
        self._tokenizer_fingerprint = tokenizer_fingerprint
        self._timeline = timeline
        self._clock = clock
        self._identity = identity
        self._lag = lag or Lag()
        self.metrics = RequestMetrics()
        self.refusals = Refusals(self.metrics.refused, clock)
        self.num_lost = Counter[WorkerRole]()
        """Workers that were lost, and not let go."""
        # It says so before it refuses anything, and refuses who is new before who is being read.
        self._leaving = self._stopping = self._is_over = False
        # While there is more to come that is decided on together.
        self._is_held = False
        self._next_deadline = Alarm(clock, self.expire)
        self._orphans_end = Alarm(clock, self._fail_orphans)
        self._streams = GenerationStreams(self, self.metrics, clock, model_name)
        self._links_by_id: dict[str, WorkerLink] = {}
        hands = GatewayHands(self._links_by_id, self._streams, self.metrics)
        self._effects = EffectLoop(scheduler, hands)
        self.controller_id = f"gateway-{secrets.token_hex(4)}"
        self._links = {address: self._new_link(role, address) for role, address in workers}
        self._removals: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for link in self._links.values():
            link.start()

    def add_worker(self, role: WorkerRole, address: str) -> None:
        """Look for a worker at an address that no other is looked for at."""
        log.info("worker's address found", role=role.name, address=address)
        link = self._links[address] = self._new_link(role, address)
        link.start()

    def remove_worker(self, address: str) -> None:
        """Look no more for a worker that is lost, or never came."""
        log.info("worker's address gone", address=address)
        link = self._links.pop(address)
        link.cancel()
        removal = asyncio.create_task(link.stop(), name=f"remove {address}")
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    def is_connected(self, address: str) -> bool:
        """Whether the worker at an address is there; it may also be in its grace."""
        return self._links[address].has_worker

    def _new_link(self, role: WorkerRole, address: str) -> WorkerLink:
        # A gateway that starts later has the higher terms, and so has a link that is made later;
        # room for many losses of a worker.
        first_term = time.time_ns() // 1_000_000
        tls = towards_worker(self._identity, role)
        return WorkerLink(role, address, self.controller_id, first_term, self, tls)

    def leave(self) -> None:
        """Say that it is not ready any more. Requests are taken as before."""
        self._leaving = True

    def drain(self) -> None:
        """Let no more requests in. Those under way go on, such as are being read among them."""
        self._leaving = self._stopping = True

    def end_all(self) -> None:
        """End the requests that are under way; their clients are told why."""
        self._is_over = True
        self._scheduler_now().fail_all(_stopping())
        self._flush()

    async def stop(self) -> None:
        """Say goodbye to the workers, which then drop what is left."""
        await asyncio.gather(*(link.stop() for link in self._links.values()), *self._removals)
        self._orphans_end.set(inf)
        self._next_deadline.set(inf)

    # TokenService

    @property
    def model(self) -> ServedModel | None:
        workers = self._scheduler.workers
        if not self._scheduler.is_ready:
            return None
        return ServedModel(
            name=workers[0].info.model.name,
            vocab_size=workers[0].info.model.vocab_size,
            max_model_len=min(worker.info.model.max_model_len for worker in workers),
            max_sequence_tokens=min(
                worker.info.num_blocks * worker.info.layout.block_size for worker in workers
            ),
            block_size=workers[0].info.layout.block_size,
            eos_token_ids=workers[0].info.model.eos_token_ids,
        )

    @property
    def ready(self) -> bool:
        return self._scheduler.serves_now and not self._leaving

    @property
    def draining(self) -> bool:
        return self._leaving

    def check_room(self, tenant: str, num_choices: int, deadline_s: float) -> None:
        with self.refusals.counting(tenant):
            self._refuse_if_stopping()
            self._lag.check()
            self._scheduler.check_room(tenant, num_choices, deadline_s, self._clock())

    def reading(self, tenant: str, num_requests: int) -> AbstractContextManager[None]:
        with self.refusals.counting(tenant):
            self._refuse_if_stopping()
            return self._scheduler.reading(tenant, num_requests)

    def submit(self, request: TokenRequest) -> GenerationStream:
        with self.refusals.counting(request.tenant):
            if self._is_over:
                raise _stopping()
            generation = self._scheduler.submit(request, self._clock())
        stream = self._streams.open(generation)
        self._flush()
        return stream

    @contextmanager
    def together(self) -> Iterator[None]:
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self._flush()

    def stop_generation(self, generation: Generation) -> Ended:
        ended = self._scheduler_now().stop(generation)
        self._flush()
        return ended

    def cancel(self, generation: Generation) -> None:
        self._scheduler_now().cancel(generation)
        self._flush()

    # LinkListener

    def admits(self, info: WorkerInfo) -> None:
        if info.model.fingerprint != self._model_fingerprint:
            raise Mismatch(
                f"{info.worker_id} runs {info.model.name} ({info.model.fingerprint}), "
                f"this gateway serves another model ({self._model_fingerprint})"
            )
        tokenizers = {self._tokenizer_fingerprint, info.model.tokenizer_fingerprint} - {""}
        if len(tokenizers) > 1:
            raise Mismatch(
                f"{info.worker_id} has another tokenizer.json than this gateway for"
                f" {info.model.name}: give them the same files"
            )
        self._scheduler.check(info)

    def joined(self, info: WorkerInfo, address: str) -> None:
        self._links_by_id[info.worker_id] = self._links[address]
        # The KV of prompts goes to where the worker says that other workers reach it.
        self._scheduler_now().worker_joined(info, info.advertised_address or address)
        self._watch_readiness()
        self._flush()

    def lost(self, info: WorkerInfo, error: TandemError) -> None:
        self.num_lost[info.role] += 1
        self._gone(info, error)

    def left(self, info: WorkerInfo) -> None:
        self._gone(info, Unavailable(f"worker {info.worker_id} has left"))

    def _gone(self, info: WorkerInfo, error: TandemError) -> None:
        self._links_by_id.pop(info.worker_id, None)
        self._lag.forget(info.worker_id)
        self._scheduler_now().worker_lost(info.worker_id, error)
        self._flush()
        self._watch_readiness()

    def suspected(self, info: WorkerInfo) -> None:
        log.warning("worker suspected", worker=info.worker_id)
        self._lag.forget(info.worker_id)
        self._scheduler_now().worker_suspected(info.worker_id)
        self._flush()

    def trusted(self, info: WorkerInfo) -> None:
        log.info("worker trusted again", worker=info.worker_id)
        self._scheduler_now().worker_trusted(info.worker_id)
        self._flush()

    def resumed(self, info: WorkerInfo, snapshot: Any, unapplied: Sequence[Any]) -> None:
        self._scheduler.resumed(info.worker_id, snapshot, unapplied)
        self._flush()

    def heard(
        self,
        info: WorkerInfo,
        header: worker_pb2.WorkerHeader,
        received_ns: int,
        reports: Sequence[Any] = (),
    ) -> None:
        spans = self._timeline.heard(info, header, received_ns)
        # Prefill workers say little, and are read in time however much waits of the others.
        if info.role is WorkerRole.DECODE:
            self._lag.heard(info.worker_id, self._timeline.age_s(info, header, received_ns))
        now = received_ns / 1e9
        has_changes = header.HasField("prefix_cache")
        changes = cache_changes_from_wire(header.prefix_cache) if has_changes else None
        use = PoolUse(header.num_free_blocks, header.num_unused_slots)
        offset_ns = self._timeline.clock_offset_ns(info)
        if self._effects.heard(info.worker_id, use, now, spans, changes, offset_ns, reports):
            self._watch_deadlines()
        if header.HasField("draining_ms"):
            self._stops(info, header.draining_ms / 1000, now)

    def _stops(self, info: WorkerInfo, timeout_s: float, now: float) -> None:
        """A worker is about to end: it says so in all that it says from then on."""
        if self._scheduler.draining.stops(info.worker_id, timeout_s, now):
            log.info("worker stops", worker=info.worker_id, timeout_s=timeout_s)
            self._watch_readiness()
            self._flush()

    def expire(self) -> None:
        """End what should have ended by now."""
        self._scheduler.expire(self._clock())
        self._flush()

    # WorkerAdmin

    @property
    def workers(self) -> list[PrefillView | DecodeView]:
        return self._scheduler.workers

    def needs(self, worker: PrefillView | DecodeView) -> bool:
        return self._scheduler.needs(worker)

    def drain_worker(self, worker_id: str, timeout_s: float) -> PrefillView | DecodeView:
        worker = self._scheduler_now().draining.cordon(worker_id, timeout_s, self._clock())
        log.info("worker drained", worker=worker_id, timeout_s=timeout_s)
        self._watch_readiness()
        self._flush()
        return worker

    def undrain_worker(self, worker_id: str) -> PrefillView | DecodeView:
        worker = self._scheduler_now().draining.uncordon(worker_id, self._clock())
        log.info("worker undrained", worker=worker_id)
        self._watch_readiness()
        self._flush()
        return worker

    # Inside

    def _scheduler_now(self) -> Scheduler:
        """For what changes without a time of its own."""
        self._scheduler.advance(self._clock())
        return self._scheduler

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise _stopping()

    def _watch_readiness(self) -> None:
        """What is queued waits for a role that has no worker any more, but not for ever."""
        if self._scheduler.is_ready:
            self._orphans_end.set(inf)
        elif self._orphans_end.at_s == inf:
            self._orphans_end.set(self._clock() + ORPHAN_S)

    def _fail_orphans(self) -> None:
        # Once more as long as it is so: a worker of the other role may give something back.
        self._orphans_end.set(self._clock() + ORPHAN_S)
        error = Unavailable("no worker came back in time", retry_after_s=ORPHAN_S)
        self._scheduler_now().fail_queued(error)
        self._flush()

    def _flush(self) -> None:
        if not self._is_held:
            self._effects.flush()
            self._watch_deadlines()

    def _watch_deadlines(self) -> None:
        self._next_deadline.set(self._scheduler.next_deadline_s)


def _stopping() -> Unavailable:
    return Unavailable("the gateway is stopping", retry_after_s=1.0)
