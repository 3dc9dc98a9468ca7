"""Judges what the workers get: cores, memory, and the KV pools that these give. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tandem.cli.amounts import format_bytes
from tandem.cli.doctor.findings import Finding, problem, warning
from tandem.cli.doctor.hardware import dtype_of
from tandem.cli.doctor.machine import Cpu, Machine, Model, Torch
from tandem.cli.fleet import Fleet, FleetSettings, memory_share
from tandem.core.device import CpuDevice, CudaDevice, Device, MockDevice, format_cores
from tandem.core.errors import ConfigError
from tandem.core.kv import kv_dtype
from tandem.core.quantization import Quantization
from tandem.engine.fake.profiles import parse_profile
from tandem.worker.pool_size import (
    GPU_MEMORY_SHARE,
    MemoryBudget,
    default_share,
    mock_num_blocks,
)
from tandem.worker.settings import WorkerSettings

BLOCK_SIZE: int = WorkerSettings.model_fields["block_size"].default
# What a mending flag may propose: the machine has other users.
MOST_OF_IT = 0.8
# A mended pool should hold at least this many tokens.
ENOUGH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Some memory and the workers that share it. `name`: the machine's own, or a GPU's."""

    name: str
    memory_bytes: int
    free_bytes: int
    num_workers: int


def judge_cores(cpu: Cpu, fleet: Fleet) -> Finding:
    """How the cores are shared out."""
    found = f"{cpu.model}, {_count_cores(cpu)}" if cpu.model else _count_cores(cpu)
    bound = [worker for worker in fleet.workers if worker.cores]
    used = sorted({core for worker in bound for core in worker.cores})
    text = "; ".join(filter(None, (found, fleet.core_line())))
    if cpu.quota is not None and cpu.quota < len(used):
        keep = tuple(sorted(cpu.cores[: max(1, math.floor(cpu.quota))]))
        return warning(
            "cpu",
            f"{text}; but a quota allows {cpu.quota:g} CPUs, and more threads than that stall",
            f"--device cpu:{format_cores(keep)}",
        )
    if 0 < len(used) < len(bound):
        return warning("cpu", text, f"--topology {'1p1d' if len(used) > 1 else 'colocated'}")
    return Finding("cpu", text)


def judge_memory(
    machine: Machine, model: Model, settings: FleetSettings, devices: Sequence[Device]
) -> Iterator[Finding]:
    """One finding for each kind of memory that workers take their shares of."""
    if isinstance(devices[0], MockDevice):
        yield _mock_pool(devices[0], model, settings)
        return
    for place, device in _places(machine, devices).items():
        yield _judge_place(machine, model, settings, place, device)


def _judge_place(
    machine: Machine,
    model: Model,
    settings: FleetSettings,
    place: Place,
    device: CpuDevice | CudaDevice,
) -> Finding:
    share = memory_share(settings) or default_share(device)
    options = settings.worker_options
    dtype = dtype_of(machine.torch, device, str(options.get("dtype") or "auto"))
    layout = model.kv_layout(
        _number(settings, "block-size") or BLOCK_SIZE,
        kv_dtype(str(options.get("kv-cache-dtype") or "auto"), dtype),
    )
    has_kernels = isinstance(machine.torch, Torch) and bool(machine.torch.kernels)
    budget = MemoryBudget(
        device,
        place.memory_bytes,
        share,
        model.weights.num_bytes(dtype, _quantization(settings)),
        num_sharers=settings.num_weight_sharers if has_kernels else 1,
        step_bytes=model.steps.num_bytes(device, dtype, _max_model_len(settings, model)),
    )
    found = f"{format_bytes(place.memory_bytes)}, {format_bytes(place.free_bytes)} free"
    if place.name:
        found = f"{place.name}: {found}"
    enough = budget.own_bytes + layout.block_bytes * layout.blocks_for(
        min(ENOUGH_TOKENS, model.max_model_len)
    )
    try:
        num_blocks = _number(settings, "num-blocks") or budget.num_blocks(layout)
    except ConfigError as error:
        return problem("memory", f"{found}; {error.message}", _larger_share(place, enough))
    claimed = budget.own_bytes + num_blocks * layout.block_bytes
    pool = _describe_pool(num_blocks, layout.block_size, claimed, place.num_workers)
    return _judge_claim(place, claimed, f"{found}; {pool}") or _judge_length(
        f"{found}; {pool}", num_blocks * layout.block_size, model, settings
    )


def _judge_claim(place: Place, claimed_bytes: int, text: str) -> Finding | None:
    """Whether all workers' claims go into the memory together."""
    total = claimed_bytes * place.num_workers
    smaller = place.free_bytes * MOST_OF_IT / place.num_workers / place.memory_bytes
    mend = f"--memory-share {math.floor(smaller * 100) / 100:g}"
    if smaller < 0.01:
        mend = "end what takes the memory, or take fewer workers"
    if total > place.memory_bytes:
        return problem("memory", f"{text}, more than there is", mend)
    if total > place.free_bytes and place.name:
        return problem("memory", f"{text}, more than is free", mend)
    if total > place.free_bytes:
        return warning("memory", f"{text}, more than is free", mend)
    return None


def _judge_length(text: str, pool_tokens: int, model: Model, settings: FleetSettings) -> Finding:
    wanted = _max_model_len(settings, model)
    if pool_tokens < wanted:
        return warning(
            "memory",
            f"{text}: too few for a sequence of the {wanted:,} tokens that the model takes",
            "--memory-share, a larger one",
        )
    return Finding("memory", text)


def _larger_share(place: Place, enough_bytes: int) -> str:
    share = enough_bytes / place.memory_bytes
    if share * place.num_workers > GPU_MEMORY_SHARE:
        return "a smaller --model, or a machine with more memory"
    return f"--memory-share {math.ceil(share * 100) / 100:g}"


def _mock_pool(device: MockDevice, model: Model, settings: FleetSettings) -> Finding:
    block_size = _number(settings, "block-size") or BLOCK_SIZE
    try:
        num_blocks = _number(settings, "num-blocks") or mock_num_blocks(
            str(device), parse_profile(device.profile), memory_share(settings), block_size
        )
    except ConfigError as error:
        return problem("memory", error.message, "--memory-share 0.9")
    pool = _describe_pool(num_blocks, block_size)
    return _judge_length(f"{device}: {pool}", num_blocks * block_size, model, settings)


def _describe_pool(
    num_blocks: int, block_size: int, claimed_bytes: int = 0, num_workers: int = 0
) -> str:
    pool = f"{num_blocks:,} KV blocks ({num_blocks * block_size:,} tokens)"
    if not claimed_bytes:
        return f"{pool} a worker"
    size = format_bytes(claimed_bytes)
    workers = f"{num_workers} workers take {size} each" if num_workers > 1 else f"1 takes {size}"
    return f"{workers}, with {pool}"


def _places(machine: Machine, devices: Sequence[Device]) -> Mapping[Place, CpuDevice | CudaDevice]:
    """Where the workers' memory is, with one of the devices that share it."""
    by_index: dict[int | None, list[CpuDevice | CudaDevice]] = defaultdict(list)
    for device in devices:
        match device:
            case CpuDevice():
                by_index[None].append(device)
            case CudaDevice(index) if _has_gpu(machine, index):
                by_index[index].append(device)
    return {_place(machine, index, len(sharing)): sharing[0] for index, sharing in by_index.items()}


def _place(machine: Machine, index: int | None, num_workers: int) -> Place:
    if index is None:
        memory = machine.memory
        return Place("", memory.usable_bytes, memory.available_bytes, num_workers)
    assert isinstance(machine.torch, Torch)
    gpu = machine.torch.gpus[index]
    free = gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes
    return Place(f"cuda:{index}", gpu.memory_bytes, free, num_workers)


def _has_gpu(machine: Machine, index: int) -> bool:
    return isinstance(machine.torch, Torch) and index < len(machine.torch.gpus)


def _quantization(settings: FleetSettings) -> Quantization:
    wanted = settings.worker_options.get("quantization")
    # A name that is none is refused by the workers.
    return Quantization(wanted) if wanted in list(Quantization) else Quantization.NONE


def _max_model_len(settings: FleetSettings, model: Model) -> int:
    return _number(settings, "max-model-len") or model.max_model_len


def _number(settings: FleetSettings, option: str) -> int | None:
    value = settings.worker_options.get(option)
    return None if value is None else int(value)


def _count_cores(cpu: Cpu) -> str:
    num_cores = len(cpu.cores)
    cores = "1 core" if num_cores == 1 else f"{num_cores} cores"
    return cores if num_cores == cpu.num_installed else f"{cores} of {cpu.num_installed} usable"
