"""What a worker is to whoever looks at the fleet: operators, and the page."""

from __future__ import annotations

from enum import Enum

from gateway.worker_view import WorkerView


class WorkerState(Enum):
    """Of several that hold, the last counts. All but the first take nothing new; who is drained
    holds nothing any more."""

    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"
    SUSPECT = "suspect"
    STOPPING = "stopping"


def state_of(worker: WorkerView) -> WorkerState:
    """As the gateway sees it now."""
    if worker.stopping:
        return WorkerState.STOPPING
    if worker.suspect:
        return WorkerState.SUSPECT
    if worker.cordoned:
        return WorkerState.DRAINING if worker.generations else WorkerState.DRAINED
    return WorkerState.SERVING
