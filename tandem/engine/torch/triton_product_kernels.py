"""Matrix products of few rows on a GPU, as one Triton kernel. `triton_products` launches it."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tandem.engine.torch.triton_chain import LINE, fetch
from tandem.engine.torch.triton_jit import kernel
from tandem.engine.torch.triton_split_kernels import is_last


@triton.jit
def _fetch_ahead(weight, outs, first, OUT: tl.constexpr, SIZE: tl.constexpr, LINES: tl.constexpr):
    """Let the first weights of a split come to the cache that all programs share."""
    lines = tl.minimum(first + tl.arange(0, LINES) * LINE, SIZE - 1)
    fetch(weight + tl.minimum(outs, OUT - 1).to(tl.int64)[:, None] * SIZE + lines[None, :])


@triton.jit
def _sums(squares, rows, there, SUMS: tl.constexpr, PADDED_SUMS: tl.constexpr):
    """Of each row the sums of its squares."""
    sums = tl.arange(0, PADDED_SUMS)
    known = there[:, None] & (sums < SUMS)[None, :]
    return tl.load(squares + rows[:, None] * SUMS + sums[None, :], mask=known, other=0.0)


@triton.jit
def _scale(all_sums, eps, ROWS: tl.constexpr, SIZE: tl.constexpr, SUMS: tl.constexpr):
    """What rows that are normed are to be multiplied by for a root mean square of 1."""
    of_none = tl.full([ROWS], 1.0, dtype=tl.float32)
    return tl.rsqrt(tl.sum(all_sums, axis=1) / SIZE + eps) if SUMS > 0 else of_none


@triton.jit
def _add_product(
    total, weight, x, outs, items, OUT: tl.constexpr, SIZE: tl.constexpr, ALL_THERE: tl.constexpr
):
    """To `total` [outs, rows] the product of some of `weight` with `x` [items, rows]."""
    places = weight + outs.to(tl.int64)[:, None] * SIZE + items[None, :]
    if ALL_THERE:
        some = tl.load(places)
    else:
        some = tl.load(places, mask=(outs < OUT)[:, None] & (items < SIZE)[None, :], other=0.0)
    return tl.dot(some, x, total, input_precision="ieee")


@triton.jit
def _is_last(total, mine, cells, count, SPLITS: tl.constexpr):
    """Leave a split's sum where `mine` begins; whether all the others have done so."""
    tl.store(mine + cells, total)
    return is_last(count, SPLITS)


@triton.jit
def _all_parts(parts, cells, PART: tl.constexpr, SPLITS: tl.constexpr):
    """The sum of all splits' sums, always in one order. Not from a processor's own cache: others
    wrote them."""
    total = tl.load(parts + cells, cache_modifier=".cg")
    for each in tl.static_range(1, SPLITS):
        total += tl.load(parts + each * PART + cells, cache_modifier=".cg")
    return total


@triton.jit
def _vector(vector, outs, OUT: tl.constexpr):
    """What a vector has for some outputs."""
    return tl.load(vector + outs, mask=outs < OUT, other=0.0).to(tl.float32)


@triton.jit
def _rounded(total, scale, bias, type, HAS_BIAS: tl.constexpr):
    """As a library's product is, with its bias."""
    total *= scale[None, :]
    if HAS_BIAS:
        total += bias[:, None]
    return total.to(type).to(tl.float32)


@kernel
def multiply_few_rows(
    x,
    weight,
    bias,
    out,
    norm,
    scaled,
    squares,
    parts,
    counts,
    num_rows,
    eps,
    OUT: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    LINES_AHEAD: tl.constexpr,
    SUMS: tl.constexpr,
    PADDED_SUMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Some outputs of all rows, `x` [num_rows, SIZE] by `weight` [OUT, SIZE], over one split of the
    sum; whichever of a tile's splits ends last does the rest.

    With `SUMS`, `x` is normed: it is scaled already, and `squares` [num_rows, SUMS] are of what it
    was before. `GATED`: `weight` is a gate's, and below it are those of what the gate is for.
    `ADDED`: the result is added to `out`; and for a product that norms that, `scaled` becomes the
    same by `norm` [OUT], and `squares` [num_rows, tiles] sums of its squares."""
    tile, split = tl.program_id(0), tl.program_id(1)
    outs = tile * TILE + tl.arange(0, TILE)
    rows = tl.arange(0, ROWS)
    there = rows < num_rows
    type = x.dtype.element_ty
    # Of what the gate is for.
    up_weight = weight + OUT * SIZE
    length: tl.constexpr = (SIZE + STEP * SPLITS - 1) // (STEP * SPLITS) * STEP
    first = split * length
    # Weights are nobody's result: these may come while the kernel in front still runs.
    by = _vector(norm, outs, OUT) if ADDED else 0.0
    own_bias, up_bias = (
        _vector(bias, outs, OUT) if HAS_BIAS else 0.0,
        _vector(bias + OUT, outs, OUT) if HAS_BIAS and GATED else 0.0,
    )
    if CHAINED:
        gdc_launch_dependents()
        _fetch_ahead(weight, outs, first, OUT, SIZE, LINES_AHEAD)
        if GATED:
            _fetch_ahead(up_weight, outs, first, OUT, SIZE, LINES_AHEAD)
        gdc_wait()
    # What is wanted behind the loop comes beside the weights, which wait for none of it.
    all_sums = _sums(squares, rows, there, SUMS, PADDED_SUMS) if SUMS > 0 else 0.0
    places = rows.to(tl.int64)[None, :] * OUT + outs[:, None]
    kept = (outs < OUT)[:, None] & there[None, :]
    # Of a tile only the split writes here that is the last, and all have read by then.
    before = tl.load(out + places, mask=kept, other=0.0) if ADDED else 0.0
    total = tl.zeros([TILE, ROWS], dtype=tl.float32)
    up = tl.zeros([TILE, ROWS], dtype=tl.float32)
    all_there: tl.constexpr = SIZE % STEP == 0 and OUT % TILE == 0
    for start in range(first, tl.minimum(first + length, SIZE), STEP):
        items = start + tl.arange(0, STEP)
        loaded = there[None, :]
        if SIZE % STEP > 0:
            loaded = loaded & (items < SIZE)[:, None]
        some = tl.load(x + rows[None, :] * SIZE + items[:, None], mask=loaded, other=0.0)
        total = _add_product(total, weight, some, outs, items, OUT, SIZE, all_there)
        if GATED:
            up = _add_product(up, up_weight, some, outs, items, OUT, SIZE, all_there)
    if SPLITS > 1:
        tl.static_assert(not GATED, "a gate and what it is for are summed by one program")
        part: tl.constexpr = TILE * ROWS
        cells = tl.arange(0, TILE)[:, None] * ROWS + rows[None, :]
        own = parts + tile * SPLITS * part
        if not _is_last(total, own + split * part, cells, counts + tile, SPLITS):
            return
        total = _all_parts(own, cells, part, SPLITS)
    scale = _scale(all_sums, eps, ROWS, SIZE, SUMS)
    result = _rounded(total, scale, own_bias, type, HAS_BIAS)
    if GATED:
        up = _rounded(up, scale, up_bias, type, HAS_BIAS)
        result = result / (1.0 + tl.exp(-result)) * up
    if ADDED:
        result = (result + before.to(tl.float32)).to(type).to(tl.float32)
        tl.store(scaled + places, (result * by[:, None]).to(type), mask=kept)
        sums = squares + rows * tl.num_programs(0) + tile
        tl.store(sums, tl.sum(result * result, axis=0), mask=there)
    tl.store(out + places, result.to(out.dtype.element_ty), mask=kept)
