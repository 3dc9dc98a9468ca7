"""What the scheduler wants done."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.generation import Generation
from gateway.tokens import Event
from gateway.worker_view import WorkerView
from tandem.core.commands import DecodeCommand, PrefillCommand


class Send(NamedTuple):
    """Tell a worker."""

    worker_id: str
    command: DecodeCommand | PrefillCommand


class Emit(NamedTuple):
    """Tell a client. `Ended` and errors are terminal: exactly one for each generation. A
    `ScoredPrompt` comes before all others, if it is asked for."""

    generation: Generation
    event: Event


class Dismiss(NamedTuple):
    """Say goodbye to a worker that is about to end, and holds nothing: it need not wait longer."""

    worker_id: str


class CheckResult(StrEnum):
    """What became of a self-check: it `differs` where the same tokens are not promised, and is
    `wrong` where they are."""

    SAME = "same"
    DIFFERS = "differs"
    WRONG = "wrong"
    FAILED = "failed"
    DROPPED = "dropped"


class Checked(NamedTuple):
    """Tell operators: a request's answer was generated again by a worker, and compared. `num_same`
    tokens were the same, and then there was the end, or another; `position` is that of the
    latter."""

    request_id: str
    choice_index: int
    result: CheckResult
    num_same: int
    position: int
    computed_by: tuple[str, ...]
    checked_by: str = ""


Effect = Send | Emit | Dismiss | Checked


class Outbox:
    """Effects, in the order in which they were decided."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def send(self, worker: WorkerView, command: DecodeCommand | PrefillCommand) -> None:
        self._effects.append(Send(worker.info.worker_id, command))

    def emit(self, generation: Generation, event: Event) -> None:
        self._effects.append(Emit(generation, event))

    def dismiss(self, worker: WorkerView) -> None:
        self._effects.append(Dismiss(worker.info.worker_id))

    def checked(self, checked: Checked) -> None:
        self._effects.append(checked)

    def take(self) -> list[Effect]:
        """All since the last call."""
        effects, self._effects = self._effects, []
        return effects
