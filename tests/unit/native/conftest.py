from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tandem.native.library import INSTRUCTIONS, Kernels, KernelsMissing, load

# The kernels for AVX-512 as they run on other processors: `make test-avx512`.
EMULATED = "TANDEM_EMULATED_AVX512"


@pytest.fixture(params=INSTRUCTIONS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    if request.param == "avx512" and (path := os.environ.get(EMULATED)):
        return Kernels(Path(path), request.param)
    try:
        return load(request.param)
    except KernelsMissing as missing:
        pytest.skip(f"NOT TESTED: {missing}")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(request.param)
