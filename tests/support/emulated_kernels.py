"""Kernels for processors that are not here: `make test-emulated`."""

from __future__ import annotations

import os
from pathlib import Path

from tandem.native.library import Kernels

# The library for AVX-512 and AMX as it runs on other processors.
EMULATED = "TANDEM_EMULATED"


def emulated(instructions: str) -> Kernels | None:
    """The kernels for these instructions, if they are to be emulated."""
    path = os.environ.get(EMULATED)
    return Kernels(Path(path), instructions) if path and instructions in ("avx512", "amx") else None
