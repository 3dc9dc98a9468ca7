"""From what happens to what comes of it: the order in which a scheduler is told, decides and is
obeyed. Pure, given hands that are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.effects import Checked, Dismiss, Emit, Send
from gateway.generation import Generation
from gateway.scheduler import Scheduler
from gateway.tokens import Event
from gateway.worker_view import PoolUse
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import Span


class Hands(Protocol):
    """What carries effects out. None of these calls waits."""

    def send(self, worker_id: str, command: Any) -> None: ...

    def dismiss(self, worker_id: str) -> None: ...

    def emit(self, generation: Generation, event: Event) -> None: ...

    def checked(self, checked: Checked) -> None: ...


class EffectLoop:
    """Tells a scheduler what workers say, and has carried out what it wants then."""

    def __init__(self, scheduler: Scheduler, hands: Hands) -> None:
        self._scheduler = scheduler
        self._hands = hands

    def flush(self) -> None:
        """To be called after anything has happened. Workers first: they wait for their commands,
        and whatever becomes of an event for a client, none of these is lost."""
        self._scheduler.compose()
        effects = self._scheduler.take_effects()
        for effect in effects:
            if isinstance(effect, Send):
                self._hands.send(effect.worker_id, effect.command)
            elif isinstance(effect, Dismiss):
                self._hands.dismiss(effect.worker_id)
        for effect in effects:
            if isinstance(effect, Emit):
                self._hands.emit(effect.generation, effect.event)
            elif isinstance(effect, Checked):
                self._hands.checked(effect)

    def heard(
        self,
        worker_id: str,
        use: PoolUse,
        now: float,
        spans: Sequence[Span],
        cache_changes: CacheChanges | None,
        clock_offset_ns: int = 0,
        reports: Sequence[Any] = (),
    ) -> bool:
        """A worker's message has come, with these reports; the rest is as in `Scheduler.heard`.
        Room that it has is given away when all of it is known: who had to make room is served
        before a newcomer. True if there was anything to do."""
        may_take_more = self._scheduler.heard(
            worker_id, use, now, spans, cache_changes, clock_offset_ns
        )
        for report in reports:
            self._scheduler.report(worker_id, report)
        has_news = may_take_more or len(reports) > 0
        if has_news:
            self.flush()
        return has_news
