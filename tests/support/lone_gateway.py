"""A gateway's scheduler and dispatcher, to which no worker is linked."""

from __future__ import annotations

from typing import Any

from gateway.dispatcher import Dispatcher
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline


def new_scheduler(**settings: Any) -> Scheduler:
    return Scheduler(queue_policy("fcfs"), Limits(), **settings)


def new_dispatcher(scheduler: Scheduler | None = None) -> Dispatcher:
    return Dispatcher(scheduler or new_scheduler(), (), "", Timeline())


class Link:
    """Keeps what a worker is told."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, command: Any) -> None:
        self.sent.append(command)
