"""Workers in virtual time: the roles' real states, run as `tandem.worker` runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from decode_service.parking import KvMove
from decode_service.standing_plan import StandingPlan
from prefill_service.batch_queue import BatchQueue
from tandem.core.commands import Destination
from tandem.core.kv import Plane
from tandem.core.plan import StepPlan, StepResult
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerInfo
from tandem.engine.fake.profile import Profile
from tandem.simulation.engine import VirtualEngine
from tandem.simulation.events import HOP_S, Events, to_ns
from tandem.simulation.sender import SendKv, VirtualSender
from tandem.transfer.codec import FrameHeader
from tandem.transfer.reservation import Reservation
from tandem.worker.state import WorkerState


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker says to its controller."""

    reports: Sequence[Any]
    spans: Sequence[Span]
    num_free_blocks: int
    cache_changes: CacheChanges | None


class VirtualWorker:
    """A state, an engine, and the way to the controller, which `tell` is. As in a real worker a
    step takes in whatever was applied before it began, and waits for no message."""

    def __init__(
        self,
        info: WorkerInfo,
        state: WorkerState[Any, Any, Any],
        events: Events,
        profile: Profile,
        tell: Callable[[WorkerInfo, Message], None],
    ) -> None:
        self.info = info
        self.state = state
        self._events = events
        self._engine = VirtualEngine(events, profile)
        self._tell = tell
        self._is_stepping = False
        self._spans: list[Span] = []

    def apply(self, commands: Sequence[Any]) -> None:
        """A message has come."""
        for command in commands:
            self.state.apply(command)
        self._changed()

    def act(self, change: Callable[..., None], *args: object) -> None:
        """Change the state, take the next step if the engine is free, and report."""
        change(*args)
        self._changed()

    def add_span(self, span: Span) -> None:
        """Note what was done; the next message tells."""
        self._spans.append(span)

    def _changed(self) -> None:
        if not self._is_stepping and (plan := self.state.next_step()):
            self._is_stepping = True
            self._engine.launch(plan, self.state.layer_hook(plan), self._stepped)
        self._say()

    def _stepped(self, plan: StepPlan, result: StepResult, start_s: float) -> None:
        self._is_stepping = False
        start_ns, end_ns = to_ns(start_s), self._events.now_ns
        self.state.complete(plan, result, start_ns, end_ns)
        self.add_span(
            Span(
                SpanKind.STEP,
                start_ns,
                end_ns,
                num_tokens=plan.num_tokens,
                num_prefill_tokens=plan.num_prefill_tokens,
            )
        )
        self._changed()

    def _say(self) -> None:
        cache = self.state.prefix_cache
        spans, self._spans = self._spans, []
        message = Message(
            self.state.reports.take(),
            spans,
            self.state.num_free_blocks,
            CacheChanges.of(cache.take_changes()) if cache.has_changes else None,
        )
        self._events.after(HOP_S, self._tell, self.info, message)


class VirtualPrefillWorker(VirtualWorker):
    """Runs batches, and sends their KV over its link."""

    state: BatchQueue

    def __init__(
        self,
        info: WorkerInfo,
        events: Events,
        profile: Profile,
        tell: Callable[[WorkerInfo, Message], None],
        send: SendKv,
    ) -> None:
        sender = VirtualSender(
            events,
            info.layout,
            profile.device.link_bandwidth,
            send,
            on_done=lambda *done: self.act(self.state.transfer_done, *done),
            on_failed=lambda *failed: self.act(self.state.transfer_failed, *failed),
            on_span=self.add_span,
        )
        state = BatchQueue(
            layout=info.layout,
            num_blocks=info.num_blocks,
            end_rule=info.model.end_rule,
            transfers=sender,
            prefix_caching=info.caches_prefixes,
        )
        super().__init__(info, state, events, profile, tell)


class VirtualDecodeWorker(VirtualWorker):
    """Generates, and computes prompts itself if it is told to. What it preempts is computed again:
    it keeps no KV in the host's memory."""

    state: StandingPlan

    def __init__(
        self,
        info: WorkerInfo,
        events: Events,
        profile: Profile,
        tell: Callable[[WorkerInfo, Message], None],
    ) -> None:
        state = StandingPlan(
            layout=info.layout,
            num_blocks=info.num_blocks,
            max_num_seqs=info.max_num_seqs,
            end_rule=info.model.end_rule,
            clock_ns=lambda: events.now_ns,
            prefix_caching=info.caches_prefixes,
            mover=NoMover(),
        )
        super().__init__(info, state, events, profile, tell)

    def take_kv(self, destination: Destination, first_token_id: int) -> None:
        """All KV of a sequence that was not cached here has come, and the token that follows it.
        Raises `Fenced` if nobody waits for it any more."""
        reservation = self.state.reservation(destination.transfer_id, destination.epoch)
        reservation.check_open()
        _cover(reservation, self.info.layout.num_layers)
        reservation.finish(first_token_id, None)
        self.act(self.state.reservation_complete, reservation)


class NoMover:
    """A `Mover` that is never asked, as no host memory is given to it."""

    def start(self, move: KvMove) -> None:
        raise AssertionError("KV is parked, and there is no room for any")


def _cover(reservation: Reservation, num_layers: int) -> None:
    num_tokens = reservation.num_tokens - reservation.first_token
    for number, plane in enumerate(Plane):
        reservation.cover(
            FrameHeader(
                reservation.transfer_id,
                reservation.epoch,
                number,
                plane,
                range(num_layers),
                reservation.first_token,
                num_tokens,
            )
        )
