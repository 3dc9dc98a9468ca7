"""torch's own threads, for kernels that torch does not know."""

from __future__ import annotations

from ctypes import CDLL, c_void_p, cast
from functools import cache
from pathlib import Path

import torch

from tandem.native.structs import Team


def team() -> Team:
    """As many threads as torch takes now, of torch's own."""
    return Team(_parallel(), torch.get_num_threads())


@cache
def _parallel() -> int | None:
    """`GOMP_parallel` of the OpenMP that torch is linked to, which a look-up in torch's own library
    finds. Another OpenMP, or threads of our own, would spin for work on the cores that torch's
    threads spin on. None if torch has none: then kernels take one thread."""
    folder = Path(torch.__file__).parent / "lib"
    for path in folder.glob("libtorch_cpu.*"):
        try:
            return cast(CDLL(str(path)).GOMP_parallel, c_void_p).value
        except (OSError, AttributeError):
            continue
    return None
