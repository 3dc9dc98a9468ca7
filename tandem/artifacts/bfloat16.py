"""bfloat16 in numpy, which has no such type: its bits as uint16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite float32 values rounded to nearest, ties to even. Shape as `values`."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Half of the last place kept, less one unless that place is odd: the carry does the rounding.
    half = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    return ((bits + half) >> np.uint32(16)).astype(np.uint16)
