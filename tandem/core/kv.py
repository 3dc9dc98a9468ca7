"""The shape of a KV cache, as every part that stores or moves it must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint16": 2, "int8": 1}
INT8 = "int8"
# Behind the int8 of a head: a float32, what one of them counts.
SCALE_BYTES = 4


def kv_dtype(kv_cache_dtype: str, dtype: str) -> str:
    """The type of the cache's items, by what was asked for: `auto` takes the model's."""
    return dtype if kv_cache_dtype == "auto" else kv_cache_dtype


class Plane(IntEnum):
    """Which of a layer's caches. The numbers are the wire's."""

    KEY = 1
    VALUE = 2


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Geometry of the cache. A pool stores, per plane and layer,
    `[num_blocks, block_size, num_kv_heads, head_items]` items of `dtype`, a key of `ITEM_SIZES`."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: str

    @property
    def head_items(self) -> int:
        """Items that a head takes: its own, and the scale behind them if they are int8."""
        return self.head_dim + (SCALE_BYTES if self.dtype == INT8 else 0)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in one plane of one layer."""
        return self.num_kv_heads * self.head_items * ITEM_SIZES[self.dtype]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: all its tokens, all layers, both planes."""
        return self.token_bytes * self.block_size * self.num_layers * len(Plane)

    def blocks_for(self, num_tokens: int) -> int:
        """Number of blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)
