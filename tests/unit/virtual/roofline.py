"""An H100 with an 8B model, worked out by hand: published constants, and half of the peak."""

from __future__ import annotations

FLOPS = 0.5 * 989e12
MEMORY_BANDWIDTH = 3.35e12
LINK_BANDWIDTH = 25e9
LAUNCH_S = 100e-6
PARAMS = 8.03e9
NUM_LAYERS, HIDDEN_SIZE = 32, 4096
TOKEN_KV_BYTES = 131072

Slice = tuple[int, int]
"""Tokens `[start, end)` of a sequence."""


def step_s(*slices: Slice) -> float:
    """How long a step takes."""
    num_tokens = sum(end - start for start, end in slices)
    attended = sum(position + 1 for start, end in slices for position in range(start, end))
    flops = 2 * PARAMS * num_tokens + 4 * HIDDEN_SIZE * NUM_LAYERS * attended
    num_bytes = 2 * PARAMS + TOKEN_KV_BYTES * sum(end for _, end in slices)
    return LAUNCH_S + max(flops / FLOPS, num_bytes / MEMORY_BANDWIDTH)


def layer_link_s(num_tokens: int) -> float:
    """How long one layer's KV of so many tokens takes over the link."""
    return num_tokens * TOKEN_KV_BYTES / NUM_LAYERS / LINK_BANDWIDTH
