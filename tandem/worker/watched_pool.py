"""A pool whose copies' failures are the worker's, and not those of whatever was copied."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import structlog

from tandem.core.errors import EngineFailed, TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import Engine, KVPool, KVRead, KVWrite
from tandem.transfer.state_guard import StateGuard

log = structlog.get_logger(__name__)

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
        watch = CopyWatch(self, "out of the pool", num_tokens)
        with watch.begins():
            return WatchedRead(self._pool.begin_read(plane, layers, blocks, num_tokens), watch)

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> WatchedWrite:
        watch = CopyWatch(self, "into the pool", num_tokens)
        with watch.begins():
            return WatchedWrite(
                self._pool.begin_write(plane, layers, blocks, num_tokens, data), watch
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


class CopyWatch:
    """One copy of a `WatchedPool`."""

    def __init__(self, pool: WatchedPool, where: str, num_tokens: int) -> None:
        self._pool = pool
        self._where = where
        self._number = pool.begun(where, num_tokens)
        self._has_failed = False

    @contextmanager
    def begins(self) -> Iterator[None]:
        """It is under way from here on, unless it fails in the block."""
        try:
            with self.failures():
                yield
        except BaseException:
            self._pool.over(self._number)
            raise

    @contextmanager
    def ends(self) -> Iterator[None]:
        """It is successful if the block is."""
        with self.failures():
            yield
        self._pool.succeeded(self._where)
        self._pool.over(self._number)

    @contextmanager
    def closes(self) -> Iterator[None]:
        """It is over behind the block."""
        try:
            with self.failures():
                yield
        finally:
            self._pool.over(self._number)

    @contextmanager
    def failures(self) -> Iterator[None]:
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


class WatchedRead:
    def __init__(self, copy: KVRead, watch: CopyWatch) -> None:
        self._copy = copy
        self._watch = watch

    def end(self, out: memoryview) -> None:
        with self._watch.ends():
            self._copy.end(out)

    def close(self) -> None:
        with self._watch.closes():
            self._copy.close()


class WatchedWrite:
    def __init__(self, copy: KVWrite, watch: CopyWatch) -> None:
        self._copy = copy
        self._watch = watch

    @property
    def is_stored(self) -> bool:
        with self._watch.failures():
            return self._copy.is_stored

    def end(self) -> None:
        with self._watch.ends():
            self._copy.end()

    def close(self) -> None:
        with self._watch.closes():
            self._copy.close()
