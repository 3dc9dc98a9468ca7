"""The gateway in virtual time: the real scheduler and `EffectLoop`, and hands that need no event
loop, streams or clients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gateway.effect_loop import EffectLoop
from gateway.effects import Checked
from gateway.generation import Generation
from gateway.scheduler import Scheduler
from gateway.tokens import Event, ScoredPrompt, Token, TokenRequest
from gateway.worker_view import PoolUse
from tandem.bench.answer import Answer
from tandem.bench.workload import Prompt
from tandem.core.errors import TandemError
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerInfo
from tandem.simulation.events import HOP_S, Events
from tandem.simulation.worker import Message


class Commanded(Protocol):
    """A worker's end of its command stream."""

    @property
    def info(self) -> WorkerInfo: ...

    def apply(self, commands: Sequence[Any]) -> None: ...


class VirtualGateway:
    """Its decisions take no time; a command takes as long to its worker as any message. Clients are
    where the gateway is."""

    def __init__(self, scheduler: Scheduler, events: Events) -> None:
        self._scheduler = scheduler
        self._effects = EffectLoop(scheduler, self)
        self._events = events
        self._commands: defaultdict[str, list[Any]] = defaultdict(list)
        self._workers: dict[str, Commanded] = {}
        self._clients: dict[Generation, tuple[Answer, Callable[[], None]]] = {}
        self._num_requests = 0

    def join(self, worker: Commanded) -> None:
        """A worker is there, and holds nothing."""
        self._workers[worker.info.worker_id] = worker
        self._scheduler.worker_joined(worker.info, worker.info.worker_id)
        self._flush()

    def submit(self, answer: Answer, on_end: Callable[[], None] = lambda: None) -> None:
        """Serve a request: its tokens are noted in the answer, and `on_end` is called when it has
        ended. Who is refused has ended at once."""
        self._num_requests += 1
        request = _request(f"request-{self._num_requests}", answer.prompt)
        try:
            generation = self._scheduler.submit(request, self._events.now_s)
        except TandemError as error:
            answer.error = error.message
            on_end()
            return
        self._clients[generation] = answer, on_end
        self._flush()

    def hear(self, info: WorkerInfo, message: Message) -> None:
        """A worker's message has come."""
        self._effects.heard(
            info.worker_id,
            PoolUse(message.num_free_blocks),
            self._events.now_s,
            message.spans,
            message.cache_changes,
            reports=message.reports,
        )
        self._deliver()

    def _flush(self) -> None:
        self._effects.flush()
        self._deliver()

    def _deliver(self) -> None:
        """What each worker is told goes in one message."""
        commands, self._commands = self._commands, defaultdict(list)
        for worker_id, batch in commands.items():
            self._events.after(HOP_S, self._workers[worker_id].apply, batch)

    # Hands

    def send(self, worker_id: str, command: Any) -> None:
        self._commands[worker_id].append(command)

    def dismiss(self, worker_id: str) -> None:
        """Nobody leaves."""

    def checked(self, checked: Checked) -> None:
        """Nothing is checked."""

    def emit(self, generation: Generation, event: Event) -> None:
        assert not isinstance(event, ScoredPrompt), "nobody asks for it"
        if isinstance(event, Token):
            answer = self._clients[generation][0]
            answer.note(self._events.now_s, answer.num_tokens + 1)
            return
        answer, on_end = self._clients.pop(generation)
        if isinstance(event, TandemError):
            answer.error = event.message
        on_end()


def _request(request_id: str, prompt: Prompt) -> TokenRequest:
    """As the load generator asks over HTTP: so many tokens, whichever they are."""
    params = SamplingParams(max_tokens=prompt.num_output, seed=0, ignore_eos=True)
    return TokenRequest(request_id, prompt.token_ids, params)
