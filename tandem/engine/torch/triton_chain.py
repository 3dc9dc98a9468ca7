"""Kernels that begin before the one in front has ended (CUDA's programmatic dependent launch):
what is no other kernel's result they may read by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# From Hopper on.
CHAINED_FROM = (9, 0)
# A line of a GPU's caches, in items of 16 bits.
LINE = tl.constexpr(64)


@dataclass(frozen=True, slots=True)
class Processors:
    """What a GPU has of them: their number, the bytes of memory in each that programs can have, and
    whether kernels can be chained."""

    count: int
    shared_bytes: int
    can_chain: bool

    @classmethod
    def of(cls, device: torch.device) -> Processors:
        """A CPU, where Triton interprets, is taken for a small GPU."""
        if device.type != "cuda":
            return cls(count=8, shared_bytes=96 << 10, can_chain=False)
        properties = torch.cuda.get_device_properties(device)
        return cls(
            count=properties.multi_processor_count,
            # torch's stubs do not know of it.
            shared_bytes=properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
            can_chain=(properties.major, properties.minor) >= CHAINED_FROM,
        )


def chained(is_chained: bool) -> dict[str, Any]:
    """With what a kernel is launched that has `CHAINED`."""
    return {"CHAINED": True, "launch_pdl": True} if is_chained else {"CHAINED": False}


@triton.jit  # type: ignore[untyped-decorator]
def await_inputs(CHAINED: tl.constexpr) -> None:
    """What another kernel of the step writes may be read after this, and anything be written; what
    was there before the step, also before. The kernel behind may begin from here on, and waits
    likewise until this one has ended."""
    if CHAINED:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def fetch(places: tl.tensor) -> None:
    """Let the lines of these places come to the cache that all programs share. Nothing waits for
    them: of what is loaded instead, a program would have to hold all before it goes on."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [places],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
