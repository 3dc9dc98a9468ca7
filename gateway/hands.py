"""The gateway's hands: commands go out by the workers' links, events to the clients' streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from gateway.effects import Checked, CheckResult
from gateway.generation import Generation
from gateway.generation_streams import GenerationStreams
from gateway.request_metrics import RequestMetrics
from gateway.tokens import Event
from gateway.worker_link import WorkerLink

log = structlog.get_logger(__name__)


class GatewayHands:
    """The `Hands` of a `Dispatcher`, whose `links` are by their workers' ids."""

    def __init__(
        self, links: Mapping[str, WorkerLink], streams: GenerationStreams, metrics: RequestMetrics
    ) -> None:
        self._links = links
        self._streams = streams
        self._metrics = metrics

    def send(self, worker_id: str, command: Any) -> None:
        """What is for a worker that is gone went with it."""
        if link := self._links.get(worker_id):
            link.send(command)

    def dismiss(self, worker_id: str) -> None:
        if link := self._links.get(worker_id):
            link.let_go()

    def emit(self, generation: Generation, event: Event) -> None:
        self._streams.emit(generation, event)

    def checked(self, checked: Checked) -> None:
        """Neither tokens nor prompts are told of: only where they are not what they were."""
        self._metrics.checked(checked)
        is_wrong = checked.result is CheckResult.WRONG
        (log.error if is_wrong else log.info)("self-check ended", **checked._asdict())
