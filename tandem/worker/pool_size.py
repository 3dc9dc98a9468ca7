"""How many KV blocks a worker's share of its device's memory holds: pure arithmetic, so that it can
be asked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.errors import ConfigError
from tandem.core.kv import ITEM_SIZES, KVLayout

GPU_MEMORY_SHARE = 0.9
CPU_MEMORY_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What a worker takes of its device: `share` of `memory_bytes`, for weights and KV pool.

    `checkpoint_bytes` is the size of the weight files.
    """

    device: CpuDevice | CudaDevice
    memory_bytes: int
    share: float
    checkpoint_bytes: int

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the weights once loaded in `dtype`. Checkpoints hold 16-bit weights, or larger:
        an estimate that errs on the safe side."""
        return self.checkpoint_bytes * ITEM_SIZES[dtype] // 2

    def num_blocks(self, layout: KVLayout, dtype: str) -> int:
        """Blocks that fit beside weights in `dtype`. Raises `ConfigError` if not even one does."""
        pool_bytes = int(self.memory_bytes * self.share) - self.weight_bytes(dtype)
        if pool_bytes < layout.block_bytes:
            raise no_room(self.share, str(self.device))
        return pool_bytes // layout.block_bytes


def default_share(device: CpuDevice | CudaDevice) -> float:
    """A CPU's memory has other users, a GPU's has none."""
    return CPU_MEMORY_SHARE if isinstance(device, CpuDevice) else GPU_MEMORY_SHARE


def no_room(share: float, device: str) -> ConfigError:
    """The error for a share that is too small."""
    return ConfigError(
        f"{share * 100:.3g}% of the memory of {device} does not hold the weights and one KV block",
        param="memory_share",
    )
