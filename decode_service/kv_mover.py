"""Copies KV between the pool and the host's memory, beside the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import perf_counter
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from decode_service.parking import KvCopy, KvMove
from tandem.core.errors import EngineFailed
from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import KVPool
from tandem.transfer.copy_thread import CopyJob, run_in_turn
from tandem.transfer.state_guard import StateGuard

log = structlog.get_logger(__name__)

# What a device stages at a time, of each of the two copies that are under way.
COPY_BYTES = 8 * 2**20

Bytes = NDArray[np.uint8]
KVRegion = tuple[Plane, range, Sequence[int], int]
"""Plane, layers, blocks and number of tokens, as a `KVPool` takes them."""


class KvMover:
    """A `Mover` with one thread, on which `on_done` is called, to change what `guard` guards, with
    each move, its copy (None if it failed, or was not wanted any more), and the seconds that it
    took."""

    def __init__(
        self,
        pool: KVPool,
        guard: StateGuard,
        on_done: Callable[[KvMove, KvCopy | None, float], None],
    ) -> None:
        self._pool = pool
        self._guard = guard
        self._on_done = on_done
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kv-mover")

    def start(self, move: KvMove) -> None:
        self._executor.submit(self._run, move)

    def close(self) -> None:
        """Let the moves end that were started."""
        self._executor.shutdown()

    def _run(self, move: KvMove) -> None:
        start_s = perf_counter()
        copy: KvCopy | None = None
        try:
            copy = carry_out(move, self._pool)
        except EngineFailed as error:
            # Whose copy it was; the rest the pool has told.
            log.warning("a sequence's KV was not moved", **_names(move), why=error.message)
        except Exception:
            log.exception("a sequence's KV was not moved", **_names(move))
        with self._guard.change():
            self._on_done(move, copy, perf_counter() - start_s)


def _names(move: KvMove) -> dict[str, Any]:
    sequence = move.held.sequence
    return {"sequence": sequence.sequence_id, "request_id": sequence.key.request_id}


def carry_out(move: KvMove, pool: KVPool) -> KvCopy | None:
    """Copy a sequence's KV out of the pool, or back into it: the copy. None if it is not wanted
    any more: gigabytes take seconds, for which its blocks are nobody else's."""
    if not move.wanted:
        return None
    copy = move.copy or _blank(move.num_tokens, pool.layout)
    run_in_turn(_jobs(move, copy, pool))
    return copy if move.wanted else None


def _blank(num_tokens: int, layout: KVLayout) -> KvCopy:
    num_bytes = layout.num_layers * num_tokens * layout.token_bytes
    # Not cleared before it is written to, which would hold the GIL for as long as the copy takes.
    return KvCopy(num_tokens, {plane: np.empty(num_bytes, np.uint8).data for plane in Plane})


def _jobs(move: KvMove, copy: KvCopy, pool: KVPool) -> Iterator[CopyJob[None]]:
    """All of a move, part by part, as long as it is wanted."""
    layout = pool.layout
    for plane, data in copy.planes.items():
        items = np.frombuffer(data, np.uint8).reshape(layout.num_layers, copy.num_tokens, -1)
        for layers, first, end in _parts(layout, move.first_token, copy.num_tokens):
            if not move.wanted:
                return
            ids = move.blocks.ids[first // layout.block_size : layout.blocks_for(end)]
            part = items[layers.start : layers.stop, first:end]
            run = _store if move.copy else _load
            yield run(pool, (plane, layers, ids, end - first), part)


def _load(pool: KVPool, region: KVRegion, part: Bytes) -> CopyJob[None]:
    with closing(pool.begin_read(*region)) as read:
        yield
        read.end(part.data)


def _store(pool: KVPool, region: KVRegion, part: Bytes) -> CopyJob[None]:
    with closing(pool.begin_write(*region, np.ascontiguousarray(part).data)) as write:
        if not write.is_stored:
            yield
        write.end()


def _parts(layout: KVLayout, first: int, end: int) -> Iterator[tuple[range, int, int]]:
    """Layers, and which of their tokens: all of them of several layers, or some of one, in at most
    `COPY_BYTES`, or a block."""
    block_bytes = layout.token_bytes * layout.block_size
    num_tokens = max(1, COPY_BYTES // block_bytes) * layout.block_size
    num_layers = max(1, num_tokens // max(1, end - first))
    for layer in range(0, layout.num_layers, num_layers):
        layers = range(layer, min(layer + num_layers, layout.num_layers))
        for start in range(first, end, num_tokens):
            yield layers, start, min(start + num_tokens, end)
