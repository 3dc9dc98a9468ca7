"""Sampling from whole vocabularies on a GPU, as Triton kernels: one reading of the logits.
`triton_sampling` launches them.

Triton comes with torch's builds for GPUs; nothing but the GPU's sampling imports this.
"""

import triton
import triton.language as tl

from tandem.core import noise
from tandem.engine.torch.triton_jit import kernel

GOLDEN = tl.constexpr(noise.GOLDEN)
MIX_1 = tl.constexpr(noise.MIX_1)
MIX_2 = tl.constexpr(noise.MIX_2)


@kernel
def draw(
    logits,
    asked,
    scores,
    token_ids,
    num_rows,
    num_items,
    row_stride,
    ITEMS: tl.constexpr,
):
    """Of a part of a row of `logits` the highest score, and the lowest id that has it. `asked`
    [3, num_rows], int64, are the rows, the bits of their temperatures, and the keys of their noise;
    by a temperature of 0 there is none. What is no number, or endlessly likely, scores so that the
    row gives no token."""
    index, part = tl.program_id(0), tl.program_id(1)
    row = tl.load(asked + index)
    temperature = tl.load(asked + num_rows + index).to(tl.float64, bitcast=True)
    key = tl.load(asked + 2 * num_rows + index).to(tl.uint64, bitcast=True)
    items = part * ITEMS + tl.arange(0, ITEMS)
    there = items < num_items
    logit = tl.load(logits + row * row_stride + items, mask=there, other=float("-inf"))
    score = logit.to(tl.float64)
    if temperature > 0:
        score = score / temperature + _gumbel(key, items)
    score = tl.where(logit < float("inf"), score, float("inf"))
    best = tl.max(score, axis=0)
    place = index * tl.num_programs(1) + part
    tl.store(scores + place, best)
    tl.store(token_ids + place, tl.min(tl.where(score == best, items, 0x7FFFFFFF), axis=0))


@triton.jit
def choose(
    asked,
    scores,
    token_ids,
    tokens,
    num_parts,
    NO_TOKEN: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Of a row's parts the highest score's id, to where `tokens` has the row."""
    index = tl.program_id(0)
    parts = tl.arange(0, PARTS)
    there = parts < num_parts
    score = tl.load(scores + index * num_parts + parts, mask=there, other=float("-inf"))
    token_id = tl.load(token_ids + index * num_parts + parts, mask=there, other=0x7FFFFFFF)
    best = tl.max(score, axis=0)
    chosen = tl.min(tl.where(score == best, token_id, 0x7FFFFFFF), axis=0)
    is_finite = (best > float("-inf")) & (best < float("inf"))
    tl.store(tokens + tl.load(asked + index), tl.where(is_finite, chosen, NO_TOKEN).to(tl.int64))


@triton.jit
def _gumbel(key, items):
    """The noise of `tandem.core.noise`, of the same bits as `noise.gumbel`'s."""
    value = key + (items.to(tl.uint64) + 1) * GOLDEN
    value = (value ^ (value >> 30)) * MIX_1
    value = (value ^ (value >> 27)) * MIX_2
    value = value ^ (value >> 31)
    uniform = ((value >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return -tl.log(-tl.log(uniform))
