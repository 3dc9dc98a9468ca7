"""Copies KV between the pool and the host's memory, beside the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
import structlog

from decode_service.parking import KvCopy, KvMove
from tandem.core.errors import EngineFailed
from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import KVPool
from tandem.transfer.state_guard import StateGuard

log = structlog.get_logger(__name__)

COPY_BYTES = 8 * 2**20


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
    any more: what waits for the mover's turn must not be made in vain."""
    if not move.wanted:
        return None
    if move.copy is None:
        return _load(move, pool)
    _store(move, move.copy, pool)
    return move.copy


def _load(move: KvMove, pool: KVPool) -> KvCopy:
    layout = pool.layout
    blocks = move.blocks.ids[: layout.blocks_for(move.num_tokens)]
    layer_bytes = move.num_tokens * layout.token_bytes
    # Not cleared before it is written to, which would hold the GIL for as long as the copy takes.
    planes = {plane: np.empty(layout.num_layers * layer_bytes, np.uint8).data for plane in Plane}
    for plane, out in planes.items():
        for layers in _layer_groups(layout, layer_bytes):
            part = out[layers.start * layer_bytes : layers.stop * layer_bytes]
            pool.read_into(plane, layers, blocks, move.num_tokens, part)
    return KvCopy(move.num_tokens, planes)


def _store(move: KvMove, copy: KvCopy, pool: KVPool) -> None:
    layout = pool.layout
    num_tokens = copy.num_tokens - move.first_token
    if num_tokens == 0:
        return
    first = move.first_token // layout.block_size
    blocks = move.blocks.ids[first : layout.blocks_for(copy.num_tokens)]
    for plane, data in copy.planes.items():
        items = np.frombuffer(data, np.uint8).reshape(layout.num_layers, copy.num_tokens, -1)
        for layers in _layer_groups(layout, num_tokens * layout.token_bytes):
            part = np.ascontiguousarray(items[layers.start : layers.stop, move.first_token :])
            pool.write(plane, layers, blocks, num_tokens, part.reshape(-1).data)


def _layer_groups(layout: KVLayout, layer_bytes: int) -> Iterator[range]:
    """Layers in groups of at most `COPY_BYTES`, or one by one: what a device stages at a time."""
    size = max(1, COPY_BYTES // layer_bytes)
    for start in range(0, layout.num_layers, size):
        yield range(start, min(start + size, layout.num_layers))
