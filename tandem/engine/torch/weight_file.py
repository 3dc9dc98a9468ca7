"""Packed weights in a file, whose pages all processes of a host share.

A header of one page, a line of JSON, and what an `Arena` holds. The file comes into being under
another name and is renamed when it is complete, so it is there whole or not at all; its size and
checksum say what has become of it since.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import structlog
import xxhash
from numpy.typing import NDArray

from tandem.artifacts import packed

HEADER_BYTES = 4096

Bytes = NDArray[np.uint8]
log = structlog.get_logger(__name__)


def shared_memory(path: Path, size: int, fill: Callable[[], Bytes]) -> Bytes:
    """The `size` bytes that `path` holds, mapped, not to be written. If it lacks them one process
    calls `fill` and writes them, and those that start with it wait. Where that cannot be done, what
    `fill` gave is this process's own."""
    if (mapped := _map(path, size)) is not None:
        return mapped
    filled: Bytes | None = None
    try:
        with _locked(path):
            if (mapped := _map(path, size)) is not None:
                return mapped
            filled = fill()
            _write(path, filled)
            mapped = _map(path, size)
            with suppress(OSError):  # what cannot be tidied up stays
                _remove_older(path)
                packed.remove_unused(path.parent.parent, path, packed.MAX_BYTES)
    except OSError as error:
        # What was counted for them (`MemoryBudget`) was a share.
        log.warning(
            "weights are not shared",
            file=str(path),
            reason=error.strerror,
            hint=f"a worker then holds {size:,} bytes of them, beyond its --memory-share",
        )
    if mapped is not None:
        return mapped
    return fill() if filled is None else filled


def _map(path: Path, size: int) -> Bytes | None:
    """None if the file is not there, or damaged."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # or it is empty
        return None
    with suppress(AttributeError, OSError):  # where there are none
        # Where the file's pages have yet to be read they are huge: a step reads all of them.
        mapped.madvise(mmap.MADV_HUGEPAGE)
    memory: Bytes = np.frombuffer(mapped, np.uint8)
    data = memory[HEADER_BYTES:]
    if len(data) == size and memory[:HEADER_BYTES].tobytes() == _header(data):
        with suppress(OSError):
            os.utime(path)  # Used now: not the next to go.
        return data
    log.warning("weights are packed anew", reason=f"{path} is damaged")
    return None


def _header(data: Bytes) -> bytes:
    fields = {"size": len(data), "xxh3": xxhash.xxh3_128_hexdigest(data.data)}
    return json.dumps(fields).encode().ljust(HEADER_BYTES)


def _write(path: Path, data: Bytes) -> None:
    # Under one name: only the holder of the lock writes, over what an interrupted one left.
    partial = path.with_suffix(packed.PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(_header(data))
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # a signal's, too: it is as large as the weights
        partial.unlink(missing_ok=True)
        raise


def _remove_older(path: Path) -> None:
    """What other builds of the same kernels left, whose names differ in the last part alone.
    Processes that map it go on."""
    kind = path.stem.rpartition("-")[0]
    for other in path.parent.glob(f"{kind}-*{packed.SUFFIX}"):
        if other != path:
            other.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
