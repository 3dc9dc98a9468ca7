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
from tandem.engine.protocols import Engine
from tandem.transfer.state_guard import StateGuard

log = structlog.get_logger(__name__)

# Copies the same way that may fail one after the other. A worker that computes nothing, since
# whatever comes to it is not stored, would be the emptiest, and be given what comes next as well.
MAX_FAILED_COPIES = 3


class WatchedPool:
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

    def read_into(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, out: memoryview
    ) -> None:
        with self._copy("out of the pool", num_tokens):
            self._pool.read_into(plane, layers, blocks, num_tokens, out)

    def write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> None:
        with self._copy("into the pool", num_tokens):
            self._pool.write(plane, layers, blocks, num_tokens, data)

    @contextmanager
    def _copy(self, where: str, num_tokens: int) -> Iterator[None]:
        with self._lock:
            number = next(self._numbers)
            # Each a string of its own, so that one is told from the next.
            self._under_way[number] = f"copy {number} of {num_tokens} tokens {where}"
        try:
            yield
        except TandemError:
            raise
        except Exception as error:
            log.exception("copying KV failed", where=where)
            self._failed(where, error)
            raise EngineFailed(f"KV was not copied {where}: {type(error).__name__}") from error
        else:
            with self._lock:
                self._num_failed[where] = 0
        finally:
            with self._lock:
                del self._under_way[number]

    def _failed(self, where: str, error: Exception) -> None:
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
