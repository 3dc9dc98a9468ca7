"""Which runner an engine takes, and its loading."""

from __future__ import annotations

from importlib.util import find_spec

import structlog
import torch

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.errors import ConfigError
from tandem.core.kv import INT8
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.native_runner import NativeRunner, fits
from tandem.engine.torch.packed_model import PackedModel
from tandem.engine.torch.packed_weights import KernelPacker
from tandem.engine.torch.runner import Runner, TorchRunner
from tandem.models.decoder import Decoder
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import PlainPacker, load_weights
from tandem.native.library import Kernels, KernelsMissing, best

KV_CACHE_DTYPES = ("auto", INT8)

log = structlog.get_logger(__name__)


def kernels_for(config: ModelConfig, device: torch.device) -> Kernels | None:
    """The native kernels, if they compute this model on this device; else None, on a CPU with a
    warning."""
    if device.type != "cpu":
        return None
    try:
        if not fits(config):
            raise KernelsMissing("the kernels do not take a model of these sizes")
        return best()
    except KernelsMissing as missing:
        log.warning("torch's own operations, several times slower", reason=str(missing))
        return None


def check_kv_cache_dtype(kv_cache_dtype: str, kernels: Kernels | None) -> None:
    """Raises `ConfigError` if this is no type for the KV, or one that only the kernels take."""
    if kv_cache_dtype not in KV_CACHE_DTYPES:
        known = " or ".join(KV_CACHE_DTYPES)
        raise ConfigError(f"unknown type {kv_cache_dtype!r}: write {known}", param="kv_cache_dtype")
    if kv_cache_dtype == INT8 and kernels is None:
        raise ConfigError(
            "KV in int8 takes the native kernels, on a CPU; here are none", param="kv_cache_dtype"
        )


def _has_triton() -> bool:
    if find_spec("triton"):
        return True
    log.warning("torch's own operations, several times slower", reason="Triton is not installed")
    return False


def load_runner(
    folder: ModelFolder,
    pool: TorchKVPool,
    max_model_len: int,
    dtype: torch.dtype,
    device: torch.device,
    kernels: Kernels | None,
) -> Runner:
    """A runner with the folder's weights. Raises `ConfigError` as `load_weights` does."""
    config, files = folder.config, folder.weight_files
    rotary = RotaryEmbedding(config, max_model_len, device)
    if kernels is None:
        plain = load_weights(config, files, dtype, device, PlainPacker())
        decoder = Decoder(config, plain, rotary)
        if device.type == "cuda" and _has_triton():
            # Not above: Triton is there only with torch's builds for GPUs.
            from tandem.engine.torch.gpu_runner import GpuRunner

            return GpuRunner(config, decoder, pool, device, max_model_len)
        return TorchRunner(config, decoder, pool, device)
    packer = KernelPacker(kernels)
    packed = load_weights(config, files, dtype, device, packer)
    model = PackedModel(config, packed, rotary, pool, packer)
    return NativeRunner(config, kernels, model, pool, is_bfloat16=dtype == torch.bfloat16)
