"""When a step's KV of each layer is in the pool, of an engine whose launches wait for nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from tandem.engine.protocols import LayerHook


class StoredEvent(Protocol):
    """What was queued before it is done, or not: `torch.cuda.Event`, as far as it is used here."""

    def query(self) -> bool:
        """Whether it is."""
        ...

    def synchronize(self) -> None:
        """Wait until it is."""
        ...


def record_event() -> StoredEvent:
    """An event of the current device's current stream."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


class StoredLayers:
    """Calls a step's layer hook once the device has stored the layers, on the thread that launches
    the step and then waits for it: some while more of the step is launched, the rest in `wait`."""

    def __init__(
        self, on_layer: LayerHook, record: Callable[[], StoredEvent] = record_event
    ) -> None:
        self._on_layer = on_layer
        self._record = record
        self._queued: deque[tuple[int, StoredEvent]] = deque()

    def queued(self, layer: int) -> None:
        """A `LayerHook` for the launch: what stores the layer is launched."""
        self._queued.append((layer, self._record()))
        while self._queued and self._queued[0][1].query():
            self._tell()

    def wait(self) -> None:
        """Until all layers are stored, and told."""
        while self._queued:
            self._queued[0][1].synchronize()
            self._tell()

    def _tell(self) -> None:
        layer, _ = self._queued.popleft()
        self._on_layer(layer)
