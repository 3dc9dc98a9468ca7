"""The randomness of sampling: a pure function of (seed, choice, position, token id).

A counter-based generator (SplitMix64's finaliser, Steele et al., OOPSLA 2014) instead of a stream
with a state: any worker can draw the noise of any token of any request at any time, so a request
can be replayed from any token. Keyed by token id, so the draw of one token does not depend on which
others are candidates.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK = 2**64 - 1


def mix(value: int) -> int:
    """SplitMix64's finaliser over one unsigned 64-bit integer."""
    value = ((value ^ (value >> 30)) * MIX_1) & MASK
    value = ((value ^ (value >> 27)) * MIX_2) & MASK
    return value ^ (value >> 31)


def position_key(seed: int, choice_index: int, position: int) -> int:
    """The key, unsigned 64 bits, of all draws for one position of one choice."""
    return mix((_choice_key(seed, choice_index) + position + 1) & MASK)


@lru_cache(maxsize=4096)
def _choice_key(seed: int, choice_index: int) -> int:
    return mix((mix(seed) + choice_index + 1) & MASK)


def uniform(key: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """One draw in (0, 1) for each token id, under a `position_key`. Shape as `token_ids`."""
    with np.errstate(over="ignore"):
        value = np.uint64(key) + (token_ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(MIX_1)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(MIX_2)
        value ^= value >> np.uint64(31)
    return ((value >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
