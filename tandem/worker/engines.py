"""From a worker's settings to its engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tandem.artifacts.model_folder import ModelFolder
from tandem.core.device import CpuDevice, CudaDevice, MockDevice, parse_device
from tandem.core.errors import ConfigError
from tandem.core.kv import ITEM_SIZES, KVLayout
from tandem.core.plan import StepPlan
from tandem.core.worker import ModelInfo
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.fake.profiles import parse_profile
from tandem.engine.protocols import Engine
from tandem.worker.memory import machine_memory_bytes
from tandem.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from torch import Tensor

GPU_MEMORY_SHARE = 0.9
CPU_MEMORY_SHARE = 0.15


def build_engine(settings: WorkerSettings, folder: ModelFolder) -> Engine:
    """Load the model onto the device. Raises `ConfigError`."""
    max_model_len = settings.max_model_len or folder.config.max_position_embeddings
    match parse_device(settings.device):
        case MockDevice(profile):
            return _fake_engine(settings, folder, profile, max_model_len)
        case CpuDevice() | CudaDevice() as device:
            return _torch_engine(settings, folder, device, max_model_len)


def _fake_engine(
    settings: WorkerSettings, folder: ModelFolder, profile_name: str, max_model_len: int
) -> Engine:
    profile = parse_profile(profile_name)
    config = folder.config
    share = settings.memory_share or GPU_MEMORY_SHARE
    num_blocks = settings.num_blocks or profile.num_blocks(settings.block_size, share)
    if num_blocks < 1:
        raise _no_room(share, f"mock:{profile_name}")
    return FakeEngine(
        ModelInfo(
            name=folder.name,
            fingerprint=folder.fingerprint,
            vocab_size=config.vocab_size,
            max_model_len=max_model_len,
            eos_token_ids=config.eos_token_ids,
            numerics="fake",
        ),
        profile=profile,
        block_size=settings.block_size,
        num_blocks=num_blocks,
        output_token_ids=config.output_token_ids or (0, config.vocab_size),
        open_tokenizer=folder.tokenizer,
        verify=settings.mock_verify,
    )


def _torch_engine(
    settings: WorkerSettings,
    folder: ModelFolder,
    device: CpuDevice | CudaDevice,
    max_model_len: int,
) -> Engine:
    try:
        from tandem.engine.torch.engine import TorchEngine
        from tandem.engine.torch.placement import resolve_dtype, torch_device
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"device {device} needs torch: pip install 'tandem-serve[torch]'", param="device"
        ) from error
    dtype = str(resolve_dtype(settings.dtype, torch_device(device))).removeprefix("torch.")
    return TorchEngine(
        folder,
        device,
        dtype=dtype,
        block_size=settings.block_size,
        num_blocks=settings.num_blocks or _num_blocks(settings, folder, device, dtype),
        max_model_len=max_model_len,
        observer=LogitsDump(Path(settings.dump_logits)) if settings.dump_logits else None,
    )


def _num_blocks(
    settings: WorkerSettings, folder: ModelFolder, device: CpuDevice | CudaDevice, dtype: str
) -> int:
    """Blocks that fit beside the weights in this worker's share of the memory."""
    config = folder.config
    layout = KVLayout(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        block_size=settings.block_size,
        dtype=dtype,
    )
    # Checkpoints hold 16-bit weights, or larger: an estimate that errs on the safe side.
    weight_bytes = sum(file.stat().st_size for file in folder.weight_files)
    weight_bytes = weight_bytes * ITEM_SIZES[dtype] // 2
    share = settings.memory_share or _default_share(device)
    pool_bytes = int(_memory_bytes(device) * share) - weight_bytes
    if pool_bytes < layout.block_bytes:
        raise _no_room(share, str(device))
    return pool_bytes // layout.block_bytes


def _no_room(share: float, device: str) -> ConfigError:
    return ConfigError(
        f"{share:.0%} of the memory of {device} does not hold the weights and one KV block",
        param="memory_share",
    )


def _default_share(device: CpuDevice | CudaDevice) -> float:
    return CPU_MEMORY_SHARE if isinstance(device, CpuDevice) else GPU_MEMORY_SHARE


def _memory_bytes(device: CpuDevice | CudaDevice) -> int:
    if isinstance(device, CpuDevice):
        return machine_memory_bytes()
    import torch

    return torch.cuda.get_device_properties(device.index).total_memory


class LogitsDump:
    """Saves the logits of every sampled position as `SEQUENCE-POSITION.npy`, float32."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def __call__(self, plan: StepPlan, logits: Tensor) -> None:
        sampled = [each for each in plan.slices if each.sample is not None]
        for each, row in zip(sampled, logits.cpu().numpy(), strict=True):
            np.save(self._folder / f"{each.sequence_id}-{each.end}.npy", row)
