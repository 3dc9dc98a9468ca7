"""Judges Python, torch, GPUs and the type to compute in. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tandem.cli.amounts import format_bytes
from tandem.cli.doctor.findings import Finding, problem, warning
from tandem.cli.doctor.machine import Compiler, Driver, Gpu, Machine, NoTorch, Python, Torch
from tandem.core.device import CpuDevice, CudaDevice, Device
from tandem.core.installation import install_tandem, pip_install

OLDEST_PYTHON = (3, 11)
INSTALL_TORCH = install_tandem(extra="torch")
BROKEN_TORCH = install_tandem("--force-reinstall", extra="torch")
PYPI = ("-i", "https://pypi.org/simple")
INSTALL_DRIVER = "install NVIDIA's driver; for a container: docker run --gpus all"
INSTALL_COMPILER = "apt-get install gcc libc6-dev, or name a compiler with CC"
INSTALL_HEADERS = "apt-get install python3-dev, or what has them for this Python"
DTYPES = ("auto", "float32", "bfloat16")


def judge_python(python: Python) -> Finding:
    version = ".".join(map(str, python.version))
    if python.version < OLDEST_PYTHON:
        return problem("python", f"{version} is too old", "install Python 3.11 or newer")
    return Finding("python", f"{version}, {python.executable}")


def judge_torch(torch: Torch | NoTorch, devices: Sequence[Device]) -> Finding:
    """`devices`: each worker's."""
    real = [each for each in devices if isinstance(each, CpuDevice | CudaDevice)]
    match torch:
        case Torch(version, cuda):
            build = f"built for CUDA {cuda}" if cuda else "a CPU build"
            return Finding("torch", f"{version}, {build}")
        case NoTorch() if not real:
            return Finding("torch", "not installed, and a mock device needs none")
        case NoTorch(""):
            return problem("torch", f"not installed, and {real[0]} needs it", INSTALL_TORCH)
        case NoTorch(reason):
            return problem("torch", f"installed, but it does not start: {reason}", BROKEN_TORCH)


def judge_gpus(machine: Machine, devices: Sequence[Device]) -> Finding:
    """The GPUs that `devices` need, or those that nobody uses."""
    indices = sorted({each.index for each in devices if isinstance(each, CudaDevice)})
    if not indices:
        return _unused_gpus(machine, devices)
    if not isinstance(machine.torch, Torch):
        return problem("gpu", _describe_driver(machine.driver) + ", but there is no torch")
    if not machine.torch.gpus:
        return _no_usable_gpu(machine.torch, machine.driver)
    found = _describe_gpus(machine.torch.gpus)
    if indices[-1] >= len(machine.torch.gpus):
        return problem(
            "gpu", f"{found}; there is no cuda:{indices[-1]}", "--device cuda:0, for all workers"
        )
    return Finding("gpu", found)


def judge_kernels(machine: Machine, device: Device) -> Finding | None:
    """Which kernels compute, and what compiles a GPU's; None where none of ours would."""
    match machine.torch, device:
        case Torch(kernels="", kernels_missing=missing), CpuDevice():
            why, _, mend = missing.partition("; ")
            return warning("kernels", f"torch's own, several times slower: {why}", mend)
        case Torch(kernels=kernels), CpuDevice():
            return Finding("kernels", kernels.removeprefix("kernels "))
        case Torch(), CudaDevice():
            return _judge_compiler(machine.compiler)
    return None


def judge_dtype(torch: Torch | NoTorch, device: Device, wanted: str) -> Finding | None:
    """What the workers compute in; `wanted` is what the user wrote. None if it cannot be known, or
    nothing is computed."""
    if wanted not in DTYPES:
        return problem("dtype", f"there is no {wanted!r:.40}", f"--dtype {', '.join(DTYPES)}")
    match torch, device:
        case Torch(), CudaDevice():
            return Finding("dtype", dtype_of(torch, device, wanted))
        case Torch(), CpuDevice():
            return _cpu_dtype(torch, wanted)
    return None


def dtype_of(torch: Torch | NoTorch, device: CpuDevice | CudaDevice, wanted: str) -> str:
    """What a worker would take. Without torch: the larger one, to be on the safe side."""
    if wanted in DTYPES[1:]:
        return wanted
    if isinstance(device, CudaDevice):
        return "bfloat16"
    return torch.auto_dtype if isinstance(torch, Torch) else "float32"


def _judge_compiler(compiler: Compiler) -> Finding:
    """Triton builds what launches a kernel, in C, when the kernel is first launched."""
    if not compiler.path:
        return problem("kernels", "Triton needs a C compiler, and finds none", INSTALL_COMPILER)
    if not compiler.has_headers:
        text = f"Triton needs Python.h, and it is not in {compiler.headers}"
        return problem("kernels", text, INSTALL_HEADERS)
    return Finding("kernels", f"Triton's, which {compiler.path} compiles the launchers of")


def _cpu_dtype(torch: Torch, wanted: str) -> Finding:
    is_fast = torch.auto_dtype == "bfloat16"
    unit = f"this CPU ({torch.instructions})"
    match wanted, is_fast:
        case "bfloat16", False:
            text = f"bfloat16, which is slow on {unit} without the kernels"
            return warning("dtype", text, "--dtype float32")
        case "float32", True:
            return Finding("dtype", "float32, as asked for; bfloat16 is faster")
        case "auto", True:
            return Finding("dtype", "bfloat16")
        case _:
            return Finding("dtype", f"float32: bfloat16 is slow on {unit} without the kernels")


def _unused_gpus(machine: Machine, devices: Sequence[Device]) -> Finding:
    if not isinstance(devices[0], CpuDevice):
        return Finding("gpu", f"none is needed for {devices[0]}")
    if isinstance(machine.torch, Torch) and machine.torch.gpus:
        found = _describe_gpus(machine.torch.gpus)
        return warning(
            "gpu", f"{found}; not used by --device cpu", _gpu_flag(machine.torch, devices)
        )
    if machine.driver:
        text = f"{_describe_driver(machine.driver)}; this torch does not use it"
        return warning("gpu", text, _mend_build(machine.torch))
    return Finding("gpu", "none found, and --device cpu needs none")


def _gpu_flag(torch: Torch, devices: Sequence[Device]) -> str:
    return "--device cuda" if len(torch.gpus) >= len(devices) else "--device cuda:0"


def _no_usable_gpu(torch: Torch, driver: Driver | None) -> Finding:
    if driver is None:
        return problem("gpu", "none: nvidia-smi is not here or sees no GPU", INSTALL_DRIVER)
    found = _describe_driver(driver)
    if torch.cuda is None:
        return problem("gpu", f"{found}, but torch is a CPU build", _mend_build(torch))
    reason = torch.cuda_warning or f"torch, built for CUDA {torch.cuda}, sees no GPU"
    return problem("gpu", f"{found}, but {reason}", "update the driver, or take an older torch")


def _mend_build(torch: Torch | NoTorch) -> str:
    """The command for the build that PyPI has, which is for CUDA."""
    if not isinstance(torch, Torch):
        return INSTALL_TORCH
    if torch.cuda:
        return "update the driver, or take a torch built for it"
    release = torch.version.partition("+")[0]
    return pip_install("--force-reinstall", *PYPI, f"torch=={release}")


def _describe_driver(driver: Driver | None) -> str:
    if driver is None:
        return "no NVIDIA driver"
    return f"{_describe_gpus(driver.gpus)}, driver {driver.version}"


def _describe_gpus(gpus: Sequence[Gpu]) -> str:
    """`2 x NVIDIA L4 (24 GB)`."""
    kinds = Counter((gpu.name, format_bytes(gpu.memory_bytes)) for gpu in gpus)
    return ", ".join(
        f"{count} x {name} ({size})" if count > 1 else f"{name} ({size})"
        for (name, size), count in kinds.items()
    )
