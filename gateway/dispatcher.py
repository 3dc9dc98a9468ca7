"""The scheduler's hands: carries its effects to workers and clients, and reports back to it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

import structlog

from gateway.effects import Emit
from gateway.generation import Generation
from gateway.request_metrics import RequestMetrics, TokenTimes
from gateway.scheduler import Scheduler
from gateway.timeline import Timeline
from gateway.tokens import Ended, ServedModel, Token, TokenRequest
from gateway.worker_link import WorkerLink
from gateway.worker_view import PoolUse
from tandem.core.errors import Mismatch, TandemError, Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import worker_pb2
from tandem.wire.reports import cache_changes_from_wire

log = structlog.get_logger(__name__)

# How long queued requests wait for a worker of a role that has none.
ORPHAN_S = 10.0


class GenerationStream:
    """A `TokenStream`: a generation's events, queued for the one task that reads them. Bounded by
    `max_tokens`."""

    def __init__(self, dispatcher: Dispatcher, generation: Generation) -> None:
        self._dispatcher = dispatcher
        self.generation = generation
        self.times = TokenTimes()
        self._events: list[Token | Ended] = []
        self._error: TandemError | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, event: Token | Ended | TandemError) -> None:
        if isinstance(event, TandemError):
            self._error = event
        else:
            self._events.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def next(self) -> list[Token | Ended]:
        if not self._events and self._error is None:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        events, self._events = self._events, []
        if not events and self._error is not None:
            raise self._error
        return events

    def stop(self) -> Ended:
        return self._dispatcher.stop_generation(self.generation)

    def cancel(self) -> None:
        self._dispatcher.cancel(self.generation)


class Dispatcher:
    """A `TokenService` over workers, and the `LinkListener` of their links.

    Everything happens on one event loop, in calls that do not wait: a call changes the scheduler,
    and `_flush` carries out what it decided.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        workers: Sequence[tuple[WorkerRole, str]],
        model_fingerprint: str,
        timeline: Timeline,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`workers` are the roles and addresses to connect to at first; see `add_worker`. `clock`
        tells monotonic seconds."""
        self._scheduler = scheduler
        self._model_fingerprint = model_fingerprint
        self._timeline = timeline
        self._clock = clock
        self.metrics = RequestMetrics()
        self._stopping = False
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._timed_s = inf
        self._orphan_timer: asyncio.TimerHandle | None = None
        self._streams: dict[Generation, GenerationStream] = {}
        self._links_by_id: dict[str, WorkerLink] = {}
        self._controller_id = f"gateway-{secrets.token_hex(4)}"
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
        return WorkerLink(role, address, self._controller_id, first_term, self)

    def drain(self) -> None:
        """Take no more requests, and end those under way; their clients are told why."""
        self._stopping = True
        self._scheduler.fail_all(Unavailable("the gateway is stopping", retry_after_s=1.0))
        self._flush()

    async def stop(self) -> None:
        """Say goodbye to the workers, which then drop what is left."""
        await asyncio.gather(*(link.stop() for link in self._links.values()), *self._removals)
        self._stop_orphan_timer()
        if self._deadline_timer:
            self._deadline_timer.cancel()

    # TokenService

    @property
    def model(self) -> ServedModel | None:
        workers = self._scheduler.workers
        if not self.ready:
            return None
        return ServedModel(
            name=workers[0].info.model.name,
            vocab_size=workers[0].info.model.vocab_size,
            max_model_len=min(worker.info.model.max_model_len for worker in workers),
            max_sequence_tokens=min(
                worker.info.num_blocks * worker.info.layout.block_size for worker in workers
            ),
            eos_token_ids=workers[0].info.model.eos_token_ids,
        )

    @property
    def ready(self) -> bool:
        return self._scheduler.is_ready and not self._stopping

    @property
    def draining(self) -> bool:
        return self._stopping

    @property
    def num_open_streams(self) -> int:
        """Generations that have not ended."""
        return len(self._streams)

    def check_room(self, tenant: str, num_choices: int, deadline_s: float) -> None:
        with self._refusals_told(tenant):
            self._refuse_if_stopping()
            self._scheduler.check_room(tenant, num_choices, deadline_s, self._clock())

    def submit(self, request: TokenRequest) -> GenerationStream:
        with self._refusals_told(request.tenant):
            self._refuse_if_stopping()
            generation = self._scheduler.submit(request, self._clock())
        stream = self._streams[generation] = GenerationStream(self, generation)
        self._flush()
        return stream

    def stop_generation(self, generation: Generation) -> Ended:
        ended = self._scheduler.stop(generation)
        self._flush()
        return ended

    def cancel(self, generation: Generation) -> None:
        self._scheduler.cancel(generation)
        self._flush()

    # LinkListener

    def admits(self, info: WorkerInfo) -> None:
        if info.model.fingerprint != self._model_fingerprint:
            raise Mismatch(
                f"{info.worker_id} runs {info.model.name} ({info.model.fingerprint}), "
                f"this gateway serves another model ({self._model_fingerprint})"
            )
        self._scheduler.check(info)

    def joined(self, info: WorkerInfo, address: str) -> None:
        self._links_by_id[info.worker_id] = self._links[address]
        # The KV of prompts goes to where the worker says that other workers reach it.
        self._scheduler.worker_joined(info, info.advertised_address or address)
        if self._scheduler.is_ready:
            self._stop_orphan_timer()
        self._flush()

    def lost(self, info: WorkerInfo, error: TandemError) -> None:
        self._links_by_id.pop(info.worker_id, None)
        self._scheduler.worker_lost(info.worker_id, error)
        self._flush()
        if not self._scheduler.is_ready:
            self._start_orphan_timer()

    def suspected(self, info: WorkerInfo) -> None:
        log.warning("worker suspected", worker=info.worker_id)
        self._scheduler.worker_suspected(info.worker_id)
        self._flush()

    def trusted(self, info: WorkerInfo) -> None:
        log.info("worker trusted again", worker=info.worker_id)
        self._scheduler.worker_trusted(info.worker_id)
        self._flush()

    def resumed(self, info: WorkerInfo, snapshot: Any, unapplied: Sequence[Any]) -> None:
        if info.role is WorkerRole.PREFILL:
            self._scheduler.prefill_resumed(info.worker_id, snapshot, unapplied)
        else:
            self._scheduler.decode_resumed(info.worker_id, snapshot, unapplied)
        self._flush()

    def heard(self, info: WorkerInfo, header: worker_pb2.WorkerHeader, received_ns: int) -> None:
        spans = self._timeline.heard(info, header, received_ns)
        now = received_ns / 1e9
        has_changes = header.HasField("prefix_cache")
        changes = cache_changes_from_wire(header.prefix_cache) if has_changes else None
        use = PoolUse(header.num_free_blocks, header.num_unused_slots)
        if self._scheduler.heard(info.worker_id, use, now, spans, changes):
            self._flush()

    def reported(self, info: WorkerInfo, reports: list[Any]) -> None:
        take = (
            self._scheduler.prefill_report
            if info.role is WorkerRole.PREFILL
            else self._scheduler.decode_report
        )
        for report in reports:
            take(info.worker_id, report)
        self._flush()

    def expire(self) -> None:
        """End what should have ended by now."""
        self._timed_s = inf
        self._scheduler.expire(self._clock())
        self._flush()

    # Inside

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise Unavailable("the gateway is stopping", retry_after_s=1.0)

    def _set_deadline_timer(self, deadline_s: float) -> None:
        """One timer, for the first deadline of all."""
        if self._deadline_timer:
            self._deadline_timer.cancel()
        self._timed_s = deadline_s
        if deadline_s < inf:
            delay_s = deadline_s - self._clock()
            loop = asyncio.get_running_loop()
            self._deadline_timer = loop.call_later(max(0.0, delay_s), self.expire)

    def _start_orphan_timer(self) -> None:
        """What is queued waits for a lost role to come back, but not for ever."""
        if self._orphan_timer is None:
            loop = asyncio.get_running_loop()
            self._orphan_timer = loop.call_later(ORPHAN_S, self._fail_orphans)

    def _fail_orphans(self) -> None:
        self._orphan_timer = None
        error = Unavailable("no worker came back in time", retry_after_s=ORPHAN_S)
        self._scheduler.fail_queued(error)
        self._flush()

    def _stop_orphan_timer(self) -> None:
        if self._orphan_timer:
            self._orphan_timer.cancel()
            self._orphan_timer = None

    def _flush(self) -> None:
        self._scheduler.compose()
        for effect in self._scheduler.take_effects():
            if isinstance(effect, Emit):
                self._emit(*effect)
            elif link := self._links_by_id.get(effect.worker_id):
                link.send(effect.command)
        if self._scheduler.next_deadline_s != self._timed_s:
            self._set_deadline_timer(self._scheduler.next_deadline_s)

    def _emit(self, generation: Generation, event: Token | Ended | TandemError) -> None:
        if isinstance(event, Token):
            stream = self._streams[generation]
            self.metrics.token(generation, stream.times, self._clock())
            stream.put(event)
            return
        stream = self._streams.pop(generation)
        self.metrics.ended(generation, stream.times, event, self._clock())
        stream.put(event)
        log.info(
            "request ended",
            request_id=generation.request.request_id,
            tenant=generation.request.tenant,
            outcome=event.finish_reason.name if isinstance(event, Ended) else event.reason,
            why="" if isinstance(event, Ended) else event.message,
            prompt_tokens=generation.num_prompt_tokens,
            cached_tokens=generation.num_cached_tokens,
            tokens=len(generation.token_ids),
            prefill=generation.prefill_worker,
            decode=generation.decode_worker,
            mode=event.served_by.mode.name if isinstance(event, Ended) else "",
            preemptions=generation.num_preemptions,
            losses=generation.num_losses,
            bad_transfers=generation.num_bad_transfers,
        )

    @contextmanager
    def _refusals_told(self, tenant: str) -> Iterator[None]:
        """Who is refused, and why: a request that is not let in leaves no other trace."""
        try:
            yield
        except TandemError as error:
            self.metrics.refused[error.reason] += 1
            log.info(
                "request refused",
                tenant=tenant,
                outcome=error.reason,
                why=error.message,
                retry_after_s=error.retry_after_s,
            )
            raise
