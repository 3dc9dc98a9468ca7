"""Who hears of a worker from its link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tandem.core.errors import TandemError
from tandem.core.worker import WorkerInfo
from tandem.v1 import worker_pb2


class LinkListener(Protocol):
    """Hears what happens to a worker. Called on the event loop; never waits."""

    def admits(self, info: WorkerInfo) -> None:
        """Raises `Mismatch` if the worker does not fit the others."""
        ...

    def joined(self, info: WorkerInfo, address: str) -> None: ...

    def lost(self, info: WorkerInfo, error: TandemError) -> None: ...

    def left(self, info: WorkerInfo) -> None:
        """It was let go, and is gone."""
        ...

    def suspected(self, info: WorkerInfo) -> None:
        """It may be lost: to be given nothing new."""
        ...

    def trusted(self, info: WorkerInfo) -> None:
        """It is no longer suspected."""
        ...

    def resumed(self, info: WorkerInfo, snapshot: Any, unapplied: Sequence[Any]) -> None:
        """The stream is back. `unapplied` are the commands that the worker has yet to see."""
        ...

    def heard(
        self,
        info: WorkerInfo,
        header: worker_pb2.WorkerHeader,
        received_ns: int,
        reports: Sequence[Any] = (),
    ) -> None:
        """Any message, and the reports in it."""
        ...
