"""`python -m tandem.engine.torch.probe` prints, as one line of JSON, what torch can do here.

For callers that must not import torch themselves, and must survive an import that crashes or hangs.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch

from tandem.core.device import CpuDevice
from tandem.core.errors import ConfigError
from tandem.engine.torch.placement import resolve_dtype, torch_device
from tandem.native.library import KernelsMissing, best


def probe() -> dict[str, Any]:
    """Versions, GPUs that can be used, and what `auto` takes on the CPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name, missing = kernels()
    auto = resolve_dtype("auto", torch_device(CpuDevice()), bool(name))
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [_gpu(index) for index in range(num_gpus)],
        "cuda_warning": str(caught[0].message) if caught else "",
        "auto_dtype": str(auto).removeprefix("torch."),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": name,
        "kernels_missing": missing,
    }


def kernels() -> tuple[str, str]:
    """What computes on this CPU: the native kernels' name and "", or "" and why there are none,
    with the command that mends it."""
    try:
        return str(best()), ""
    except (KernelsMissing, ConfigError) as missing:
        return "", str(missing)


def _gpu(index: int) -> dict[str, Any]:
    free_bytes, memory_bytes = torch.cuda.mem_get_info(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "memory_bytes": memory_bytes,
        "free_bytes": free_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
