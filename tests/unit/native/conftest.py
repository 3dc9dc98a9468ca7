from __future__ import annotations

import pytest
import torch
from emulated_kernels import emulated

from tandem.native.library import INSTRUCTIONS, Kernels, KernelsMissing, load


@pytest.fixture(params=INSTRUCTIONS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    try:
        return emulated(request.param) or load(request.param)
    except KernelsMissing as missing:
        pytest.skip(f"NOT TESTED: {missing}")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(request.param)
