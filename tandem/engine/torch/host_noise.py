"""The noise of `tandem.core.noise` over a whole vocabulary, on the host: in place, and whole only
for the tokens to which it can matter."""

from __future__ import annotations

import math
import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tandem.core.noise import GOLDEN, MIX_1, MIX_2, uniform

# Fewer than these are not worth to be narrowed down.
FEW = 256
# Of a score of 1, in float32: three roundings, and a part of a fourth.
ROUNDING = 4e-7


class _Scratch(threading.local):
    """A thread's own buffers: fresh ones would be fresh pages for every row."""

    def __init__(self) -> None:
        self.grow(0)

    def grow(self, size: int) -> None:
        self.size = size
        self.hashes = np.empty(size, np.uint64)
        self.shifted = np.empty(size, np.uint64)
        self.ahead = np.empty(size, np.float32)
        self.draws = np.empty(size, np.float32)

    def ensure(self, size: int) -> None:
        if self.size < size:
            self.grow(size)


_scratch = _Scratch()


def float32_buffer(size: int) -> NDArray[np.float32]:
    """A buffer of this thread's, for `contenders`."""
    _scratch.ensure(size)
    return _scratch.ahead[:size]


def gumbel(key: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """A draw of the standard Gumbel distribution for each token."""
    draws: NDArray[np.float64] = -np.log(-np.log(uniform(key, token_ids)))
    return draws


def contenders(
    key: int, ahead: NDArray[np.float32], bar: float, token_ids: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """The indices, ascending, of the scores [n] that may reach `bar` once their tokens' Gumbel
    draws are added: few, if one is known to. `ahead` is by how much a score is above the bar
    already, in float32, and is overwritten. Without `token_ids` they are 0 to n - 1.

    With a uniform draw u a score s reaches the bar b only where -log(u) <= exp(s - b), and 1 - u is
    less still. So a vocabulary needs no logarithms, but one exponential of float32 for each token.
    """
    size = len(ahead)
    # Whatever reaches the bar was at most 37 below it: larger draws there are not.
    slack = ROUNDING * (abs(bar) + 64.0)
    if slack > 1.0:
        return np.arange(size)
    _scratch.ensure(size)
    with np.errstate(over="ignore", under="ignore"):
        odds = np.exp(ahead, out=ahead)
        odds *= 2.0**32 * math.exp(slack)
        odds += 1.0
    return np.flatnonzero(_complements(key, token_ids, size) <= odds)


def _complements(key: int, token_ids: NDArray[np.int64] | None, size: int) -> NDArray[np.float32]:
    """(1 - u) * 2**32 for each token's uniform draw u, less up to 1."""
    value, shifted = _scratch.hashes[:size], _scratch.shifted[:size]
    terms = _terms(size) if token_ids is None else (token_ids.view(np.uint64) + 1) * GOLDEN
    np.add(terms, np.uint64(key), out=value)
    for bits, factor in ((30, MIX_1), (27, MIX_2)):
        np.right_shift(value, bits, out=shifted)
        np.bitwise_xor(value, shifted, out=value)
        np.multiply(value, np.uint64(factor), out=value)
    np.invert(value, out=value)
    # The generator's last step changes none of the upper half's bits but the lowest.
    upper = value.view("<u4")[1::2]
    draws = _scratch.draws[:size]
    np.copyto(draws, upper, casting="same_kind")
    return draws


@lru_cache(maxsize=2)
def _terms(vocab_size: int) -> NDArray[np.uint64]:
    """What depends on the token alone."""
    return np.arange(1, vocab_size + 1, dtype=np.uint64) * np.uint64(GOLDEN)
