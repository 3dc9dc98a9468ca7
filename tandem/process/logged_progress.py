"""Work on models, told in the log: a service has no terminal."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)


class LoggedProgress:
    """A `ProgressCallback` that logs each stage as it begins."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self._stage = stage
            log.info("getting the model", stage=stage)
