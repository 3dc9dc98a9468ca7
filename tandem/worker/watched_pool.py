"""A pool whose copies' failures are the worker's, and not those of whatever was copied."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Generic, TypeVar

import structlog

from tandem.core.errors import EngineFailed, TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import Engine, KVPool, KVRead, KVWrite
from tandem.transfer.state_guard import StateGuard

log = structlog.get_logger(__name__)

CopyT = TypeVar("CopyT", bound=KVRead | KVWrite)

# Copies the same way that may fail one after the other. A worker that computes nothing, since
# whatever comes to it is not stored, would be the emptiest, and be given what comes next as well.
MAX_FAILED_COPIES = 3


class WatchedPool(KVPool):
    """The `KVPool` of an engine, for those that copy beside its steps, each on a thread of its own.

    Raises `EngineFailed` where a copy fails otherwise than by a `TandemError`; if the device is
    lost, or nothing but failures come, the worker ends, as it does by failed steps.
    """

    def __init__(self, engine: Engine, guard: StateGuard) -> None:
        self._engine = engine
        self._pool = engine.pool
        self._guard = guard
        self._lock = threading.Lock()
        self._numbers = count(1)
        # By their numbers, so the oldest comes first.
        self._under_way: dict[int, str] = {}
        # One after the other, by where to.
        self._num_failed: Counter[str] = Counter()

    @property
    def layout(self) -> KVLayout:
        return self._pool.layout

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    def copy_under_way(self) -> str | None:
        """The oldest copy that has not ended. Callable from any thread."""
        with self._lock:
            return next(iter(self._under_way.values()), None)

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> WatchedRead:
        return WatchedRead(
            *(self, "out of the pool", num_tokens),
            lambda: self._pool.begin_read(plane, layers, blocks, num_tokens),
        )

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> WatchedWrite:
        return WatchedWrite(
            *(self, "into the pool", num_tokens),
            lambda: self._pool.begin_write(plane, layers, blocks, num_tokens, data),
        )

    def begun(self, where: str, num_tokens: int) -> int:
        """A copy begins: its number."""
        with self._lock:
            number = next(self._numbers)
            # Each a string of its own, so that one is told from the next.
            self._under_way[number] = f"copy {number} of {num_tokens} tokens {where}"
        return number

    def over(self, number: int) -> None:
        """Nothing of it is under way any more. May be called again."""
        with self._lock:
            self._under_way.pop(number, None)

    def succeeded(self, where: str) -> None:
        with self._lock:
            self._num_failed[where] = 0

    def failed(self, where: str, error: Exception) -> None:
        with self._lock:
            self._num_failed[where] += 1
            num_failed = self._num_failed[where]
        if self._engine.is_lost():
            self._end("the device is in an error that does not heal", error)
        elif num_failed >= MAX_FAILED_COPIES:
            self._end(f"{num_failed} copies of KV {where} failed one after the other", error)

    def _end(self, why: str, cause: Exception) -> None:
        error = TandemError(why)
        error.__cause__ = cause
        self._guard.crashed(error)


class WatchedCopy(Generic[CopyT]):
    """One copy of a `WatchedPool`, under way from its begin on."""

    def __init__(
        self, pool: WatchedPool, where: str, num_tokens: int, begin: Callable[[], CopyT]
    ) -> None:
        self._pool = pool
        self._where = where
        self._has_failed = False
        self._number = pool.begun(where, num_tokens)
        try:
            with self._failures():
                self._copy = begin()
        except BaseException:
            pool.over(self._number)
            raise

    def close(self) -> None:
        try:
            with self._failures():
                self._copy.close()
        finally:
            self._pool.over(self._number)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """It is successful if the block is."""
        with self._failures():
            yield
        self._pool.succeeded(self._where)
        self._pool.over(self._number)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What fails in the block is the engine's failure, and counts once a copy."""
        try:
            yield
        except TandemError:
            raise
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                log.exception("copying KV failed", where=self._where)
                self._pool.failed(self._where, error)
            why = f"KV was not copied {self._where}: {type(error).__name__}"
            raise EngineFailed(why) from error


class WatchedRead(WatchedCopy[KVRead]):
    def end(self, out: memoryview) -> None:
        with self._ending():
            self._copy.end(out)


class WatchedWrite(WatchedCopy[KVWrite]):
    @property
    def is_stored(self) -> bool:
        with self._failures():
            return self._copy.is_stored

    def end(self) -> None:
        with self._ending():
            self._copy.end()
