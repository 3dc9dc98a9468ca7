"""From a worker's settings to its engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tandem.artifacts.cache import packed_dir
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.weight_counts import WeightCounts
from tandem.core.device import CpuDevice, CudaDevice, MockDevice, parse_device
from tandem.core.errors import ConfigError
from tandem.core.installation import install_tandem
from tandem.core.kv import kv_dtype
from tandem.core.plan import StepPlan
from tandem.core.quantization import Quantization
from tandem.core.worker import ModelInfo
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.fake.profiles import parse_profile
from tandem.engine.protocols import Engine
from tandem.process.host import container_limit_bytes, cpu_quota, installed_bytes, memory_bytes
from tandem.worker.fit import check_fit, takes_kernels
from tandem.worker.pool_size import (
    MemoryBudget,
    container_share,
    default_share,
    mock_num_blocks,
)
from tandem.worker.settings import WorkerSettings
from tandem.worker.step_memory import StepMemory

if TYPE_CHECKING:
    from torch import Tensor


def build_engine(settings: WorkerSettings, folder: ModelFolder) -> Engine:
    """Load the model onto the device, and warm up. Raises `ConfigError`."""
    has_kernels = takes_kernels(settings, folder.config)
    check_fit(settings, folder.config, has_kernels=has_kernels)
    max_model_len = settings.max_model_len or folder.config.max_position_embeddings
    try:
        match parse_device(settings.device):
            case MockDevice(profile):
                return _fake_engine(settings, folder, profile, max_model_len)
            case CpuDevice() | CudaDevice() as device:
                return _torch_engine(settings, folder, device, max_model_len, has_kernels)
    except MemoryError as error:
        raise ConfigError(
            f"{settings.device} has too little free memory for the weights, the KV blocks and a"
            " step: write less",
            param="num_blocks" if settings.num_blocks else "memory_share",
        ) from error


def _fake_engine(
    settings: WorkerSettings, folder: ModelFolder, profile_name: str, max_model_len: int
) -> Engine:
    profile = parse_profile(profile_name)
    config = folder.config
    num_blocks = settings.num_blocks or mock_num_blocks(
        f"mock:{profile_name}", profile, settings.memory_share, settings.block_size
    )
    engine = FakeEngine(
        ModelInfo(
            name=folder.name,
            fingerprint=folder.fingerprint,
            vocab_size=config.vocab_size,
            max_model_len=max_model_len,
            eos_token_ids=config.eos_token_ids,
            numerics="fake",
            batch_invariant=True,
        ),
        profile=profile,
        block_size=settings.block_size,
        num_blocks=num_blocks,
        output_token_ids=config.output_token_ids or (0, config.vocab_size),
        open_tokenizer=folder.tokenizer,
        verify=settings.mock_verify,
        runs_ahead=settings.mock_runs_ahead,
    )
    engine.warm_up()
    return engine


def _torch_engine(
    settings: WorkerSettings,
    folder: ModelFolder,
    device: CpuDevice | CudaDevice,
    max_model_len: int,
    has_kernels: bool,
) -> Engine:
    try:
        import torch

        from tandem.engine.torch.engine import TorchEngine
        from tandem.engine.torch.placement import resolve_dtype, take_threads, torch_device
        from tandem.models.weights import check_shapes
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{device} needs torch: {install_tandem(extra='torch')}", param="device"
        ) from error
    if isinstance(device, CpuDevice):
        take_threads(device.cores, cpu_quota())
    item = resolve_dtype(settings.dtype, torch_device(device), has_kernels)
    if folder.weight_files:  # else it is the mock model, which the engine refuses
        check_shapes(folder.config, folder.weight_files)
    dtype = str(item).removeprefix("torch.")
    # Packed weights lie in a file that a host's workers map.
    num_sharers = settings.weight_sharers if has_kernels else 1
    num_blocks = settings.num_blocks or _num_blocks(
        settings, folder, device, dtype, num_sharers, max_model_len
    )
    try:
        engine = TorchEngine(
            folder,
            device,
            dtype=dtype,
            kv_cache_dtype=settings.kv_cache_dtype,
            block_size=settings.block_size,
            num_blocks=num_blocks,
            max_model_len=max_model_len,
            quantization=Quantization(settings.quantization),
            packed_dir=packed_dir(),
            decodes=settings.decodes,
            observer=LogitsDump(Path(settings.dump_logits)) if settings.dump_logits else None,
        )
        # What its first steps take may be what there is no memory for.
        engine.warm_up()
    except torch.OutOfMemoryError as error:  # a GPU's, to Python a `RuntimeError`
        raise MemoryError(str(error)) from error
    return engine


def _num_blocks(
    settings: WorkerSettings,
    folder: ModelFolder,
    device: CpuDevice | CudaDevice,
    dtype: str,
    num_sharers: int,
    max_model_len: int,
) -> int:
    config = folder.config
    total_bytes, free_bytes = _memory_bytes(device)
    budget = MemoryBudget(
        device=device,
        memory_bytes=total_bytes,
        share=settings.memory_share or _default_share(device),
        weight_bytes=WeightCounts.of(config).num_bytes(dtype, Quantization(settings.quantization)),
        num_sharers=num_sharers,
        step_bytes=StepMemory.of(config).num_bytes(device, dtype, max_model_len),
    )
    budget.check_free(free_bytes)
    layout = config.kv_layout(settings.block_size, kv_dtype(settings.kv_cache_dtype, dtype))
    return budget.num_blocks(layout)


def _default_share(device: CpuDevice | CudaDevice) -> float:
    limit_bytes = container_limit_bytes()
    if limit_bytes and isinstance(device, CpuDevice):
        return container_share(limit_bytes, installed_bytes())
    return default_share(device)


def _memory_bytes(device: CpuDevice | CudaDevice) -> tuple[int, int]:
    """In all, and what is free of it; a CPU's may be had back from others, and counts as free."""
    if isinstance(device, CpuDevice):
        return memory_bytes(), memory_bytes()
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(device.index)
    return total_bytes, free_bytes


class LogitsDump:
    """Saves the logits of every sampled position as `SEQUENCE-POSITION.npy`, float32."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def __call__(self, plan: StepPlan, logits: Tensor) -> None:
        sampled = [each for each in plan.slices if each.sample is not None]
        for each, row in zip(sampled, logits.cpu().numpy(), strict=True):
            np.save(self._folder / f"{each.sequence_id}-{each.end}.npy", row)
