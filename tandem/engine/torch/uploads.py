"""What a step needs on its device, on the way there."""

from __future__ import annotations

from torch import Tensor, device


def upload(host: Tensor, to: device) -> Tensor:
    """A copy on a device, made behind what was launched there before; itself, if it is there. The
    host goes on at once: from memory that is not pinned the larger copies would have it wait."""
    pinned = host.pin_memory() if to.type == "cuda" else host
    return pinned.to(to, non_blocking=True)
