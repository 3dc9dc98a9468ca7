"""In which order queued generations are prefilled. Policies are pure, and known by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.generation import Generation
from tandem.core.errors import ConfigError


class QueuePolicy(Protocol):
    """An ordered queue. What `push_front` puts back goes before all others."""

    def push(self, generation: Generation) -> None: ...

    def push_front(self, generation: Generation) -> None: ...

    def peek(self) -> Generation | None:
        """The next one, or None."""
        ...

    def pop(self) -> Generation:
        """Take what `peek` showed."""
        ...

    def remove(self, generation: Generation) -> None: ...

    def __len__(self) -> int: ...


class FirstComeFirstServed:
    """In order of arrival."""

    def __init__(self) -> None:
        self._queue: deque[Generation] = deque()

    def push(self, generation: Generation) -> None:
        self._queue.append(generation)

    def push_front(self, generation: Generation) -> None:
        self._queue.appendleft(generation)

    def peek(self) -> Generation | None:
        return self._queue[0] if self._queue else None

    def pop(self) -> Generation:
        return self._queue.popleft()

    def remove(self, generation: Generation) -> None:
        self._queue.remove(generation)

    def __len__(self) -> int:
        return len(self._queue)


POLICIES: dict[str, Callable[[], QueuePolicy]] = {"fcfs": FirstComeFirstServed}


def queue_policy(name: str) -> QueuePolicy:
    """Raises `ConfigError` that lists the known names."""
    if name not in POLICIES:
        raise ConfigError(
            f"unknown policy {name!r}: there are {', '.join(sorted(POLICIES))}", param="policy"
        )
    return POLICIES[name]()
