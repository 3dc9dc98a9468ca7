"""Which runner an engine takes, and its loading."""

from __future__ import annotations

import structlog
import torch

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.native_runner import NativeRunner, fits
from tandem.engine.torch.packed_model import PackedModel
from tandem.engine.torch.packed_weights import KernelPacker
from tandem.engine.torch.runner import Runner, TorchRunner
from tandem.models.decoder import Decoder
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import PlainPacker, load_weights
from tandem.native.library import Kernels, KernelsMissing, best

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
        if device.type == "cuda":
            # Not above: Triton is there only with torch's builds for GPUs.
            from tandem.engine.torch.gpu_decoder import GpuDecoder
            from tandem.engine.torch.gpu_runner import GpuRunner

            decoder = GpuDecoder(config, plain, rotary, pool)
            return GpuRunner(config, decoder, pool, device, max_model_len)
        return TorchRunner(config, Decoder(config, plain, rotary), pool, device)
    packer = KernelPacker(kernels)
    packed = load_weights(config, files, dtype, device, packer)
    model = PackedModel(config, packed, rotary, pool, packer)
    return NativeRunner(config, kernels, model, pool)
