"""How many KV blocks a worker's share of its device's memory holds: pure arithmetic, so that it can
be asked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.errors import ConfigError
from tandem.core.kv import KVLayout
from tandem.engine.fake.profile import Profile

GPU_MEMORY_SHARE = 0.9
CPU_MEMORY_SHARE = 0.15
# Of a container that is a worker's own; the rest is Python's, torch's and the weight files' pages.
CONTAINER_MEMORY_SHARE = 0.6
# Several such containers' limits may be more than there is: two workers leave as much as a third.
MOST_OF_MACHINE = 0.3


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What a worker takes of its device: `share` of `memory_bytes`, for weights, steps and KV pool.

    `weight_bytes` is what the weights take once loaded, `step_bytes` what steps take beside them
    and the pool. `num_sharers` workers, this one included, have the same pages of the weights; each
    counts its part.
    """

    device: CpuDevice | CudaDevice
    memory_bytes: int
    share: float
    weight_bytes: int
    num_sharers: int = 1
    step_bytes: int = 0

    @property
    def own_weight_bytes(self) -> int:
        """The worker's part of the weights."""
        return -(-self.weight_bytes // self.num_sharers)

    @property
    def own_bytes(self) -> int:
        """All but the pool."""
        return self.own_weight_bytes + self.step_bytes

    def check_free(self, free_bytes: int) -> None:
        """Raise `ConfigError` where others have taken of the share."""
        if free_bytes < int(self.memory_bytes * self.share):
            raise ConfigError(
                f"{self.share * 100:.3g}% of the memory of {self.device} is wanted, and "
                f"{free_bytes / self.memory_bytes * 100:.3g}% is free",
                param="memory_share",
            )

    def num_blocks(self, layout: KVLayout) -> int:
        """Blocks that fit beside the rest. Raises `ConfigError` if not even one does."""
        pool_bytes = int(self.memory_bytes * self.share) - self.own_bytes
        if pool_bytes < layout.block_bytes:
            raise _no_room(self.share, str(self.device))
        return pool_bytes // layout.block_bytes


def default_share(device: CpuDevice | CudaDevice) -> float:
    """A CPU's memory has other users, a GPU's has none."""
    return CPU_MEMORY_SHARE if isinstance(device, CpuDevice) else GPU_MEMORY_SHARE


def container_share(limit_bytes: int, installed_bytes: int) -> float:
    """The share of a worker on CPUs that has a container of its own, with this limit."""
    most = MOST_OF_MACHINE * installed_bytes / min(limit_bytes, installed_bytes)
    return max(CPU_MEMORY_SHARE, min(CONTAINER_MEMORY_SHARE, most))


def mock_num_blocks(device: str, profile: Profile, share: float | None, block_size: int) -> int:
    """Blocks of a mock device, whose profile says what memory it has. Raises `ConfigError`."""
    share = share or GPU_MEMORY_SHARE
    num_blocks = profile.num_blocks(block_size, share)
    if num_blocks < 1:
        raise _no_room(share, device)
    return num_blocks


def _no_room(share: float, device: str) -> ConfigError:
    """The error for a share that is too small."""
    return ConfigError(
        f"{share * 100:.3g}% of the memory of {device} does not hold the "
        "weights, a step and one KV block",
        param="memory_share",
    )
