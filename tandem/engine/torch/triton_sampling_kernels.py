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
    logit = logit.to(tl.float64)
    score = logit
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


@kernel
def add_noise(scores, asked, noisy, num_items, ITEMS: tl.constexpr):
    """Of a part of a row of `scores` [rows, num_items], float64, `noisy`: with the noise of the
    row's key, the first of `asked`."""
    row, part = tl.program_id(0), tl.program_id(1)
    key = tl.load(asked + row).to(tl.uint64, bitcast=True)
    items = part * ITEMS + tl.arange(0, ITEMS)
    there = items < num_items
    places = row.to(tl.int64) * num_items + items
    score = tl.load(scores + places, mask=there, other=0.0)
    tl.store(noisy + places, score + _gumbel(key, items), mask=there)


@kernel
def draw_kept(
    scores,
    noisy,
    weights,
    likeliest,
    asked,
    tokens,
    num_rows,
    num_items,
    NO_TOKEN: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Of a row of `scores` [rows, num_items], float64, the token that is highest by its `noisy`
    score among those that filters keep: of the ranks by score, and of equals by the lowest id, the
    first `top_k`, and those with less than `top_p` of the mass of the `weights` before them; but
    none whose score is not as high as the `likeliest` [rows] and `log_min_p`. `asked`
    [4, num_rows], int64, are the rows' keys and `top_k`, and the bits of `top_p` and `log_min_p`.

    Filters keep the head of an order: what comes behind a token that is not kept is not either. So
    each that was wrong leaves a part of what was left, and the vocabulary need not be sorted (as in
    FlashInfer's sampling by rejection, Ye et al. 2025, here of noise that is given)."""
    row = tl.program_id(0)
    base = row.to(tl.int64) * num_items
    top_k = tl.load(asked + num_rows + row)
    top_p = tl.load(asked + 2 * num_rows + row).to(tl.float64, bitcast=True)
    log_min_p = tl.load(asked + 3 * num_rows + row).to(tl.float64, bitcast=True)
    floor = tl.load(likeliest + row) + log_min_p
    mass = tl.zeros([ITEMS], dtype=tl.float64)
    for start in range(0, num_items, ITEMS):
        items = start + tl.arange(0, ITEMS)
        there = items < num_items
        score = tl.load(scores + base + items, mask=there, other=float("-inf"))
        weight = tl.load(weights + base + items, mask=there, other=0.0)
        mass += tl.where(score >= floor, weight, 0.0)
    allowed = top_p * tl.sum(mass, axis=0)
    # Of the last one that was not kept.
    bar = tl.full([], float("-inf"), dtype=tl.float64)
    bar_id = num_items
    chosen = bar_id
    is_found = True
    is_kept = False
    while is_found & (is_kept == 0):
        highest = tl.full([ITEMS], float("-inf"), dtype=tl.float64)
        highest_ids = tl.full([ITEMS], 0x7FFFFFFF, dtype=tl.int32)
        for start in range(0, num_items, ITEMS):
            items = start + tl.arange(0, ITEMS)
            there = items < num_items
            score = tl.load(scores + base + items, mask=there, other=float("-inf"))
            noise = tl.load(noisy + base + items, mask=there, other=float("-inf"))
            is_left = (score > bar) | ((score == bar) & (items < bar_id))
            is_higher = is_left & (score >= floor) & (noise > highest)
            highest = tl.where(is_higher, noise, highest)
            highest_ids = tl.where(is_higher, items, highest_ids)
        best = tl.max(highest, axis=0)
        is_found = best > float("-inf")
        chosen = tl.min(tl.where(highest == best, highest_ids, 0x7FFFFFFF), axis=0)
        bar = tl.load(scores + base + chosen, mask=is_found, other=float("-inf"))
        bar_id = chosen
        mass = tl.zeros([ITEMS], dtype=tl.float64)
        count = tl.zeros([ITEMS], dtype=tl.int32)
        for start in range(0, num_items, ITEMS):
            items = start + tl.arange(0, ITEMS)
            there = items < num_items
            score = tl.load(scores + base + items, mask=there, other=float("-inf"))
            weight = tl.load(weights + base + items, mask=there, other=0.0)
            is_before = (score > bar) | ((score == bar) & (items < bar_id))
            is_before = is_before & (score >= floor)
            mass += tl.where(is_before, weight, 0.0)
            count += is_before.to(tl.int32)
        num_before = tl.sum(count, axis=0)
        is_likely = (top_p >= 1.0) | (num_before == 0) | (tl.sum(mass, axis=0) < allowed)
        is_kept = is_found & is_likely & (num_before < top_k)
    tl.store(tokens + row, tl.where(is_kept, chosen, NO_TOKEN).to(tl.int64))


@triton.jit
def _gumbel(key, items):
    """The noise of `tandem.core.noise`, of the same bits as `noise.gumbel`'s."""
    value = key + (items.to(tl.uint64) + 1) * GOLDEN
    value = (value ^ (value >> 30)) * MIX_1
    value = (value ^ (value >> 27)) * MIX_2
    value = value ^ (value >> 31)
    uniform = ((value >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return -tl.log(-tl.log(uniform))
