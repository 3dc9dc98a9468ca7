"""What is in a pool."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.core.kv import Plane
from tandem.engine.protocols import KVPool


def read_kv(
    pool: KVPool, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
) -> memoryview:
    """A copy of the items that `KVPool.read_into` reads, as bytes."""
    out = memoryview(bytearray(len(layers) * num_tokens * pool.layout.token_bytes))
    pool.read_into(plane, layers, blocks, num_tokens, out)
    return out
