"""Copies KV between the pool and the host's memory, beside the steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
import structlog

from decode_service.parking import KvCopy, KvMove
from tandem.core.kv import Plane
from tandem.engine.protocols import KVPool

log = structlog.get_logger(__name__)


class KvMover:
    """A `Mover` with one thread, on which `on_done` is called with each move, its copy (None if it
    failed), and the seconds that it took."""

    def __init__(
        self, pool: KVPool, on_done: Callable[[KvMove, KvCopy | None, float], None]
    ) -> None:
        self._pool = pool
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
        except Exception:
            log.exception("copying KV failed", sequence=move.held.sequence.sequence_id)
        self._on_done(move, copy, perf_counter() - start_s)


def carry_out(move: KvMove, pool: KVPool) -> KvCopy:
    """Copy a sequence's KV out of the pool, or back into it: the copy."""
    if move.copy is None:
        return _load(move, pool)
    _store(move, move.copy, pool)
    return move.copy


def _load(move: KvMove, pool: KVPool) -> KvCopy:
    layers = range(pool.layout.num_layers)
    blocks = move.blocks.ids[: pool.layout.blocks_for(move.num_tokens)]
    planes = {plane: pool.read(plane, layers, blocks, move.num_tokens) for plane in Plane}
    return KvCopy(move.num_tokens, planes)


def _store(move: KvMove, copy: KvCopy, pool: KVPool) -> None:
    layout = pool.layout
    num_tokens = copy.num_tokens - move.first_token
    if num_tokens == 0:
        return
    first = move.first_token // layout.block_size
    blocks = move.blocks.ids[first : layout.blocks_for(copy.num_tokens)]
    layers = range(layout.num_layers)
    for plane, data in copy.planes.items():
        items = np.frombuffer(data, np.uint8).reshape(layout.num_layers, copy.num_tokens, -1)
        rest = np.ascontiguousarray(items[:, move.first_token :])
        pool.write(plane, layers, blocks, num_tokens, rest.reshape(-1).data)
