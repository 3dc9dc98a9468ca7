"""Where an engine's tensors live, and in which type."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch

from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.errors import ConfigError
from tandem.core.quantization import Quantization
from tandem.native.library import Kernels


def torch_device(device: CpuDevice | CudaDevice) -> torch.device:
    """torch's name for a device. Raises `ConfigError` if there is no such GPU."""
    if isinstance(device, CpuDevice):
        return torch.device("cpu")
    if device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"there is no {device}: torch sees {torch.cuda.device_count()} GPUs; `tandem doctor"
            " --device cuda` says why",
            param="device",
        )
    if find_spec("triton") is None:
        raise ConfigError(
            f"{device} needs Triton, which torch's builds for GPUs bring on Linux", param="device"
        )
    return torch.device("cuda", device.index)


def take_threads(cores: tuple[int, ...], quota: float | None) -> None:
    """Have torch, and kernels with it, compute on a thread for each of the cores that are named, or
    else for each that the process may use. To bind them is up to the process. None has more than a
    `quota`, CPUs' worth of time, allows: threads that wait spin, and use up the others' time."""
    num_threads = len(cores) or torch.get_num_threads()
    torch.set_num_threads(min(num_threads, math.ceil(quota)) if quota else num_threads)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, which Triton's kernels, new streams and events go to; it is a
    thread's own, and the first GPU at first."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def resolve_dtype(name: str, device: torch.device, has_kernels: bool) -> torch.dtype:
    """`float32`, `bfloat16`, or for `auto` bfloat16 where the device multiplies in it or the native
    kernels compute, else float32. These widen it where the CPU does not, and read half the bytes.
    Raises `ConfigError` for other names, and for what the GPU does not have."""
    match name:
        case "float32":
            return torch.float32
        case "bfloat16":
            if device.type == "cuda" and not _has_bfloat16(device):
                raise ConfigError(
                    f"{torch.cuda.get_device_name(device)} has no bfloat16 (compute capability 8.0"
                    " or more has): write float32",
                    param="dtype",
                )
            return torch.bfloat16
        case "auto":
            return torch.bfloat16 if has_kernels or _has_bfloat16(device) else torch.float32
    raise ConfigError(f"unknown dtype {name!r}: write float32, bfloat16 or auto", param="dtype")


def numerics(
    device: torch.device,
    dtype: torch.dtype,
    kv_dtype: str,
    kernels: Kernels | None,
    quantization: Quantization,
) -> str:
    """What the bits depend on, besides model and tokens. `kernels`: None for torch's own."""
    name = str(dtype).removeprefix("torch.")
    kv = "" if kv_dtype == name else f", KV {kv_dtype}"
    if quantization is not Quantization.NONE:
        name += f" {quantization}"
    name += kv
    if kernels is not None:
        return f"{kernels} {name}"
    if device.type == "cuda":
        unit = torch.cuda.get_device_name(device)
    else:
        unit = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} {unit} {name}"


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Triton compiles it from Ampere on.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
