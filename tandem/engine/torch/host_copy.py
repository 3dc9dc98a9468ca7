"""What a step has computed, on its way to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor in the host's memory: made behind what computes the tensor, and before
    anything that is launched later. Of one that is there already, itself."""

    def __init__(self, tensor: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        self._copy = tensor
        if tensor.is_cuda:
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()

    def wait(self) -> Tensor:
        """The copy, once it is there."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._copy
