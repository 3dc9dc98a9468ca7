"""How work is shared out among threads: by whoever comes, all of it, and once."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tandem.native.library import Kernels
from tandem.native.structs import Team

SHARE = 2**20
WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


@pytest.mark.parametrize("num_shares", [0, 1, 2, 3, 7])
@pytest.mark.parametrize(("num_threads", "num_started"), [(1, 1), (2, 2), (3, 1), (5, 3), (400, 2)])
def test_every_share_is_taken_once_however_many_threads_come(
    kernels: Kernels, num_shares: int, num_threads: int, num_started: int
) -> None:
    """OpenMP may start fewer than are asked for, and one may be through before another begins."""
    asked = []

    def parallel(work: int, data: int, num_asked: int, _: int) -> None:
        asked.append(num_asked)
        for _ in range(min(num_started, num_asked)):
            WORK(work)(data)

    callback = PARALLEL(parallel)
    group = Team(ctypes.cast(callback, ctypes.c_void_p), num_threads)
    words = np.random.default_rng(0).integers(0, 2**12, num_shares * SHARE // 4, np.int32)
    total = kernels.functions.tandem_read(ctypes.byref(group), words.ctypes.data, words.nbytes)
    # Each lane of a vector is a sum of 32 bits, of numbers that are small enough.
    assert total == int(words.sum(dtype=np.int64))
    is_shared = num_threads > 1 and num_shares > 1
    assert asked == ([min(num_threads, num_shares)] if is_shared else [])
