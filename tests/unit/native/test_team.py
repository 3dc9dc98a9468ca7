"""How work is shared out among threads: by whoever comes, all of it, and once."""

from __future__ import annotations

import ctypes
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest
import torch
from native_driver import multiply, packer, random

from tandem.core.quantization import Quantization
from tandem.engine.torch.threads import team
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
    # All, even without a share for each.
    assert asked == ([min(num_threads, 256)] if is_shared else [])


def test_no_thread_ends_between_two_jobs(kernels: Kernels) -> None:
    """Of OpenMP's own: those that a smaller job did without would, and a larger one make others."""
    words = np.zeros(8 * SHARE // 4, np.int32)
    torch.set_num_threads(4)
    seen = []
    for num_shares in (8, 2, 8, 3, 8):
        kernels.functions.tandem_read(ctypes.byref(team()), words.ctypes.data, num_shares * SHARE)
        seen.append({each.name for each in Path("/proc/self/task").iterdir()})
    assert all(each == seen[0] for each in seen)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_thread_s_memory_ends_with_it(kernels: Kernels, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    weight, rows = (random(count, 8192, dtype=torch.float32) for count in (33, 512))
    packed = packer(kernels, Quantization.INT8).linear(weight, None)
    before = 0
    for count in range(40):
        thread = Thread(target=multiply, args=(kernels, packed, rows))
        thread.start()
        thread.join()
        if count == 9:
            before = psutil.Process().memory_info().rss
    # Each has over 4 MB of rounded rows.
    assert psutil.Process().memory_info().rss - before < 32 * 2**20
