"""Looks at torch, at the GPUs with and without it, and at what their kernels are compiled with."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from tandem.cli.doctor.child import ask
from tandem.cli.doctor.machine import Compiler, Driver, Gpu, NoTorch, Torch

# A first import from a cold disk, and a first look at many GPUs, can take most of a minute.
TORCH_TIMEOUT_S = 120.0
DRIVER_TIMEOUT_S = 20.0
MIB = 2**20
TORCH_PROBE = (sys.executable, "-P", "-m", "tandem.engine.torch.probe")
DRIVER_PROBE = (
    "nvidia-smi",
    "--query-gpu=driver_version,memory.total,memory.free,name",
    "--format=csv,noheader,nounits",
)


def probe_torch() -> Torch | NoTorch:
    """What torch says of itself, in a process of its own."""
    if find_spec("torch") is None:
        return NoTorch()
    answer = ask(TORCH_PROBE, TORCH_TIMEOUT_S)
    if answer is None or answer.failure:
        return NoTorch(answer.failure if answer else f"{sys.executable} is gone")
    fields = json.loads(answer.text.splitlines()[-1])
    return Torch(**{**fields, "gpus": tuple(Gpu(**gpu) for gpu in fields["gpus"])})


def probe_driver() -> Driver | None:
    """What NVIDIA's driver says; None if it is not here, or sees nothing."""
    answer = ask(DRIVER_PROBE, DRIVER_TIMEOUT_S)
    if answer is None or answer.failure:
        return None
    return parse_driver(answer.text)


def probe_compiler() -> Compiler:
    """The C compiler and the headers that Triton would take."""
    own = os.environ.get("CC")
    names = ("gcc", "clang") if own is None else (own,)
    headers = Path(sysconfig.get_paths(_scheme())["include"])
    return Compiler(
        path=next(filter(None, map(shutil.which, names)), ""),
        headers=str(headers),
        has_headers=(headers / "Python.h").exists(),
    )


def _scheme() -> str:
    """Where this Python's own files lie: Debian's default says where an administrator's would."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme


def parse_driver(text: str) -> Driver | None:
    """`570.86.15, 81559, 80994, NVIDIA H100 80GB HBM3`, a line for each GPU."""
    rows = [line.split(", ", 3) for line in text.splitlines()]
    gpus = [
        Gpu(row[3], int(row[1]) * MIB, int(row[2]) * MIB)
        for row in rows
        if len(row) == 4 and row[1].isdecimal() and row[2].isdecimal()
    ]
    return Driver(rows[0][0], tuple(gpus)) if gpus else None
