"""The simulation's gateway: the real one, whose events are checked and whose timers are not set."""

from __future__ import annotations

from collections.abc import Mapping

from sim_client import Client
from sim_clock import Clock
from sim_worker import MODEL

from gateway.alarm import Alarm
from gateway.dispatcher import Dispatcher
from gateway.effect_loop import EffectLoop
from gateway.effects import Checked
from gateway.generation import Generation
from gateway.generation_streams import GenerationStreams
from gateway.hands import GatewayHands
from gateway.scheduler import Scheduler
from gateway.timeline import Timeline
from gateway.tokens import Event


class RecordingStreams(GenerationStreams):
    """Hand every event to its client as well."""

    def __init__(self, dispatcher: Dispatcher, clients: Mapping[str, Client], clock: Clock) -> None:
        super().__init__(dispatcher, dispatcher.metrics, clock.now_s, model_name="")
        self._clients = clients

    def emit(self, generation: Generation, event: Event) -> None:
        self._clients[generation.request.request_id].take(event)
        self.hand_on(generation, event)


class RecordingHands(GatewayHands):
    """Keep what is said of self-checks."""

    def __init__(self, dispatcher: Dispatcher, streams: RecordingStreams) -> None:
        super().__init__(dispatcher._links_by_id, streams, dispatcher.metrics)
        self.all_checked: list[Checked] = []

    def checked(self, checked: Checked) -> None:
        self.all_checked.append(checked)


class NoAlarm(Alarm):
    """Time passes when the scenario says so, and every worker comes back."""

    def set(self, at_s: float) -> None:
        """It never rings."""


class RecordingDispatcher(Dispatcher):
    """Has no timers; whatever goes wrong with an event is raised."""

    def __init__(self, scheduler: Scheduler, clients: Mapping[str, Client], clock: Clock) -> None:
        super().__init__(scheduler, [], MODEL.fingerprint, Timeline(), clock.now_s)
        self._streams = RecordingStreams(self, clients, clock)
        hands = RecordingHands(self, self._streams)
        self.checked = hands.all_checked
        self._effects = EffectLoop(scheduler, hands)
        self._next_deadline = self._orphans_end = NoAlarm(clock.now_s, self.expire)
