from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tandem.native.library import INSTRUCTIONS, Kernels, KernelsMissing, load

# The library for AVX-512 and AMX as it runs on other processors: `make test-emulated`.
EMULATED = "TANDEM_EMULATED"


@pytest.fixture(params=INSTRUCTIONS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    if request.param in ("avx512", "amx") and (path := os.environ.get(EMULATED)):
        return Kernels(Path(path), request.param)
    try:
        return load(request.param)
    except KernelsMissing as missing:
        pytest.skip(f"NOT TESTED: {missing}")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(request.param)
