"""What the scheduler wants done."""

from __future__ import annotations

from typing import NamedTuple

from gateway.generation import Generation
from gateway.tokens import Ended, Token
from gateway.worker_view import WorkerView
from tandem.core.commands import DecodeCommand, PrefillCommand
from tandem.core.errors import TandemError


class Send(NamedTuple):
    """Tell a worker."""

    worker_id: str
    command: DecodeCommand | PrefillCommand


class Emit(NamedTuple):
    """Tell a client. `Ended` and errors are terminal: exactly one for each generation."""

    generation: Generation
    event: Token | Ended | TandemError


class Dismiss(NamedTuple):
    """Say goodbye to a worker that is about to end, and holds nothing: it need not wait longer."""

    worker_id: str


Effect = Send | Emit | Dismiss


class Outbox:
    """Effects, in the order in which they were decided."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def send(self, worker: WorkerView, command: DecodeCommand | PrefillCommand) -> None:
        self._effects.append(Send(worker.info.worker_id, command))

    def emit(self, generation: Generation, event: Token | Ended | TandemError) -> None:
        self._effects.append(Emit(generation, event))

    def dismiss(self, worker: WorkerView) -> None:
        self._effects.append(Dismiss(worker.info.worker_id))

    def take(self) -> list[Effect]:
        """All since the last call."""
        effects, self._effects = self._effects, []
        return effects
