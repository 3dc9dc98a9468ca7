"""Whether a device still computes."""

from __future__ import annotations

import torch


def is_lost(device: torch.device) -> bool:
    """Whether the device is in an error that stays: after an illegal address, a failed assertion or
    a fault of its memory, CUDA answers every call of the process with that same error. Running out
    of memory is none of these. Waits for the device."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
