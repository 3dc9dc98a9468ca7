"""When a GPU's step tells of its layers."""

from __future__ import annotations

from tandem.engine.torch.stored_layers import StoredLayers


class Stream:
    """A device's work: each event is of what was queued before it; `done` of them are."""

    def __init__(self) -> None:
        self.done = 0
        self.num_events = 0

    def record(self) -> Event:
        self.num_events += 1
        return Event(self, self.num_events)


class Event:
    def __init__(self, stream: Stream, number: int) -> None:
        self._stream = stream
        self._number = number

    def query(self) -> bool:
        return self._number <= self._stream.done

    def synchronize(self) -> None:
        self._stream.done = max(self._stream.done, self._number)


def test_a_layer_is_told_once_it_is_stored_and_not_when_it_is_queued() -> None:
    stream = Stream()
    told: list[tuple[int, int]] = []
    layers = StoredLayers(lambda layer: told.append((layer, stream.done)), stream.record)
    layers.queued(0)
    layers.queued(1)
    assert told == []
    stream.done = 2
    layers.queued(2)
    assert told == [(0, 2), (1, 2)]
    layers.queued(3)
    layers.wait()
    assert told == [(0, 2), (1, 2), (2, 3), (3, 4)]
    layers.wait()
    assert len(told) == 4


def test_a_step_does_not_wait_for_the_layers_of_the_one_behind() -> None:
    """Both are queued; each tells of its own."""
    stream = Stream()
    told: list[str] = []
    first = StoredLayers(lambda layer: told.append(f"first {layer}"), stream.record)
    second = StoredLayers(lambda layer: told.append(f"second {layer}"), stream.record)
    for each in (first, second):
        each.queued(0)
        each.queued(1)
    first.wait()
    assert told == ["first 0", "first 1"]
    assert stream.done == 2
