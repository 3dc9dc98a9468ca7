"""How the GPU's kernels are compiled: not anew for what a step's inputs happen to be.

Triton compiles a kernel once more for an integer that is 1 or a multiple of 16, and for a pointer
that is none. That takes a second, in which the worker's streams stand still; so what differs from
step to step is named here, and has one variant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton

NUMBERS = ("num_rows", "num_tokens", "table_row_stride", "table_block_stride")
# Parts of a step's one upload, which begin wherever the one before ends.
POINTERS = (
    "token_ids",
    "positions",
    "slots",
    "tile_rows",
    "tile_lengths",
    "tile_positions",
    "tables",
)


def kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit` for a kernel that is launched with arguments of these names."""
    return triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=POINTERS)(function)
