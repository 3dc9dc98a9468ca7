"""The shape of a KV cache, as every part that stores or moves it must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint16": 2}


class Plane(IntEnum):
    """Which of a layer's caches. The numbers are the wire's."""

    KEY = 1
    VALUE = 2


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Geometry of the cache. A pool stores, per plane and layer,
    `[num_blocks, block_size, num_kv_heads, head_dim]` items of `dtype` (a key of `ITEM_SIZES`)."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: str

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in one plane of one layer."""
        return self.num_kv_heads * self.head_dim * ITEM_SIZES[self.dtype]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: all its tokens, all layers, both planes."""
        return self.token_bytes * self.block_size * self.num_layers * len(Plane)

    def blocks_for(self, num_tokens: int) -> int:
        """Number of blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)
