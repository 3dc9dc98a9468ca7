"""One of several processes that share weights. It imports little: each of them does so anew."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.engine.torch.weight_file import shared_memory

SIZE = 2**20
Bytes = NDArray[np.uint8]


def content(seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)


def start_together(path: Path, seed: int, barrier: Barrier, results: Path) -> None:
    barrier.wait()
    memory = shared_memory(path, SIZE, lambda: content(seed))
    (results / str(seed)).write_bytes(memory.tobytes())
    barrier.wait()
    if seed == 0:
        (results / "pss").write_text(str(pss_of(path)))
    barrier.wait()


def pss_of(path: Path) -> int:
    """KiB of a file's mappings that count for this process, a page that two have for a half."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            is_ours = words[-1] == str(path)
        elif is_ours and words[0] == "Pss:":
            total += int(words[1])
    return total
