"""Copies between a pool in the host's memory and other memory of the host: the processor makes
them, so none is under way while it does something else."""

from __future__ import annotations

from collections.abc import Callable


class LateRead:
    """A `KVRead` that is made when it is ended: whoever looks at the bytes next finds them in the
    processor's cache."""

    def __init__(self, copy: Callable[[memoryview], None]) -> None:
        self._copy = copy

    def end(self, out: memoryview) -> None:
        self._copy(out)

    def close(self) -> None:
        """Nothing is under way."""


class Stored:
    """A `KVWrite` that was made when it was begun."""

    is_stored = True

    def end(self) -> None:
        """It has ended."""

    def close(self) -> None:
        """It has ended."""
