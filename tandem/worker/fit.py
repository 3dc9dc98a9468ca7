"""Whether a worker's settings fit its device and its model: said before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from tandem.artifacts.config import ModelConfig
from tandem.core.device import CpuDevice, MockDevice, parse_device
from tandem.core.errors import ConfigError
from tandem.core.kv import INT8
from tandem.models.kernels import kernels_of
from tandem.native.library import KernelsMissing, best
from tandem.worker.settings import WorkerSettings


def check_fit(settings: WorkerSettings, config: ModelConfig, *, has_kernels: bool) -> None:
    """Raises the first of the `misfits`."""
    if misfit := next(misfits(settings, config, has_kernels=has_kernels), None):
        raise misfit


def misfits(
    settings: WorkerSettings, config: ModelConfig | None, *, has_kernels: bool
) -> Iterator[ConfigError]:
    """What is asked of a device or a model that it does not have. Pure. `config` None: the model is
    not known yet. `has_kernels`: what `takes_kernels` says."""
    if isinstance(parse_device(settings.device), MockDevice):
        yield from _mock_misfits(settings)
        return
    if settings.quantization != "none" and not has_kernels:
        yield ConfigError(
            f"{settings.quantization} weights need the native kernels, on a CPU: write none",
            param="quantization",
        )
    if settings.kv_cache_dtype == INT8 and not has_kernels:
        yield ConfigError(
            "KV in int8 takes the native kernels, on a CPU; here are none", param="kv_cache_dtype"
        )
    if config and (settings.max_model_len or 0) > config.max_position_embeddings:
        yield ConfigError(
            f"{settings.max_model_len} is more than the {config.max_position_embeddings} positions"
            " that the model was trained for",
            param="max_model_len",
        )


def _mock_misfits(settings: WorkerSettings) -> Iterator[ConfigError]:
    if settings.quantization != "none":
        yield ConfigError("mock devices have no weights", param="quantization")
    if settings.kv_cache_dtype != "auto":
        yield ConfigError("a mock device's KV has a type of its own", param="kv_cache_dtype")


def takes_kernels(settings: WorkerSettings, config: ModelConfig | None) -> bool:
    """Whether the native kernels compute the model on the settings' device. Raises `ConfigError` as
    `best` does."""
    if not isinstance(parse_device(settings.device), CpuDevice):
        return False
    try:
        if config is None:
            best()
        else:
            kernels_of(config)
    except KernelsMissing:
        return False
    return True
