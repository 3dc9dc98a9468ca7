"""Which runner an engine takes, and its loading."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import structlog
import torch
import xxhash
from numpy.typing import NDArray

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.packed import SUFFIX, note_origin
from tandem.core.quantization import Quantization
from tandem.engine.torch import packed_weights
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.native_runner import NativeRunner
from tandem.engine.torch.packed_model import PackedModel
from tandem.engine.torch.packed_weights import Arena, KernelPacker, PackedLinear, aligned_empty
from tandem.engine.torch.runner import Runner, TorchRunner
from tandem.engine.torch.weight_file import shared_memory
from tandem.models import weights
from tandem.models.decoder import Decoder
from tandem.models.kernels import kernels_of
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import DecoderWeights, PlainPacker, load_weights, repack_weights
from tandem.native.library import Kernels, KernelsMissing, faster_than

log = structlog.get_logger(__name__)


def kernels_for(config: ModelConfig, device: torch.device) -> Kernels | None:
    """The native kernels, if they compute this model on this device; else None. On a CPU what is
    slower than it could be is a warning."""
    try:
        kernels = _kernels(config, device)
    except KernelsMissing as missing:
        if device.type == "cpu":
            log.warning("torch's own operations, several times slower", reason=str(missing))
        return None
    if faster := faster_than(kernels):
        log.warning("slower kernels", taken=kernels.instructions, not_taken=faster)
    return kernels


def _kernels(config: ModelConfig, device: torch.device) -> Kernels:
    if device.type != "cpu":
        raise KernelsMissing("the kernels are for CPUs")
    return kernels_of(config)


def load_runner(
    folder: ModelFolder,
    pool: TorchKVPool,
    max_model_len: int,
    dtype: torch.dtype,
    device: torch.device,
    kernels: Kernels | None,
    quantization: Quantization,
    packed_dir: Path | None,
    decodes: bool,
) -> Runner:
    """A runner with the folder's weights, which only kernels take quantised. Packed ones are shared
    with the other processes that name `packed_dir`. `decodes` as in `TorchEngine`. Raises
    `ConfigError` as `load_weights` does."""
    config, files = folder.config, folder.weight_files
    rotary = RotaryEmbedding(config, max_model_len, device)
    if kernels is None:
        assert quantization is Quantization.NONE, "only the kernels take quantised weights"
        plain = load_weights(config, files, dtype, device, PlainPacker())
        folder.check_unchanged()
        if device.type == "cuda":
            # Not above: Triton is there only with torch's builds for GPUs.
            from tandem.engine.torch.gpu_decoder import GpuDecoder
            from tandem.engine.torch.gpu_runner import GpuRunner

            decoder = GpuDecoder(config, plain, rotary, pool)
            return GpuRunner(config, decoder, pool, device, max_model_len, decodes)
        return TorchRunner(config, Decoder(config, plain, rotary), pool, device)
    weights = _packed_weights(folder, dtype, kernels, quantization, packed_dir)
    model = PackedModel(config, weights, rotary, pool, by_tiles=kernels.has_tiles)
    return NativeRunner(config, kernels, model, pool, is_bfloat16=dtype == torch.bfloat16)


def _packed_weights(
    folder: ModelFolder,
    dtype: torch.dtype,
    kernels: Kernels,
    quantization: Quantization,
    packed_dir: Path | None,
) -> DecoderWeights[PackedLinear]:
    config, device = folder.config, torch.device("cpu")

    def packed_before(arena: Arena) -> DecoderWeights[PackedLinear]:
        return repack_weights(config, dtype, KernelPacker(kernels, quantization, arena))

    counted = Arena()
    packed_before(counted)

    def pack() -> NDArray[np.uint8]:
        memory = aligned_empty(counted.size)
        memory[:] = 0
        packer = KernelPacker(kernels, quantization, Arena(memory))
        load_weights(config, folder.weight_files, dtype, device, packer)
        folder.check_unchanged()
        return memory

    if packed_dir is None:
        return packed_before(Arena(pack()))
    path = packed_dir / folder.fingerprint / _file_name(dtype, kernels, quantization)
    memory = shared_memory(path, counted.size, pack)
    note_origin(path.parent, folder)
    return packed_before(Arena(memory))


def _file_name(dtype: torch.dtype, kernels: Kernels, quantization: Quantization) -> str:
    """The last part says which code packs: what other code packed may lie in another order."""
    item = str(dtype).removeprefix("torch.")
    code = xxhash.xxh3_64(kernels.build.encode())
    for module in (packed_weights, weights):
        code.update(inspect.getsource(module).encode())
    return f"{item}-{quantization}-{kernels.library}-{code.hexdigest()[:8]}{SUFFIX}"
