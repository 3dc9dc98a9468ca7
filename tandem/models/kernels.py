"""Which models the native kernels compute."""

from __future__ import annotations

from tandem.artifacts.config import ModelConfig
from tandem.native.library import Kernels, KernelsMissing, best


def kernels_of(config: ModelConfig) -> Kernels:
    """The fastest kernels of this processor, for a model that they take. Raises `KernelsMissing`,
    and `ConfigError` as `best` does."""
    kernels = best()
    if not _fits(config, kernels):
        raise KernelsMissing("the kernels do not take a model of these sizes")
    return kernels


def _fits(config: ModelConfig, kernels: Kernels) -> bool:
    sizes = (config.hidden_size, config.intermediate_size, config.head_dim)
    return (
        all(each % 2 == 0 for each in sizes)
        and config.head_dim <= kernels.max_head_dim
        and config.num_heads // config.num_kv_heads <= kernels.max_group
    )
