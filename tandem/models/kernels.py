"""Which models the native kernels compute."""

from __future__ import annotations

from tandem.artifacts.config import ModelConfig
from tandem.native.library import Kernels, KernelsMissing, best

# Of the kernels (`attention.h`).
MAX_HEAD_DIM = 512
MAX_GROUP = 168


def kernels_of(config: ModelConfig) -> Kernels:
    """The fastest kernels of this processor, for a model that they take. Raises `KernelsMissing`,
    and `ConfigError` as `best` does."""
    if not _fits(config):
        raise KernelsMissing("the kernels do not take a model of these sizes")
    return best()


def _fits(config: ModelConfig) -> bool:
    sizes = (config.hidden_size, config.intermediate_size, config.head_dim)
    return (
        all(each % 2 == 0 for each in sizes)
        and config.head_dim <= MAX_HEAD_DIM
        and config.num_heads // config.num_kv_heads <= MAX_GROUP
    )
