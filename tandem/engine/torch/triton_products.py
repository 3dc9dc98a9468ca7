"""Matrix products of few rows on a GPU, by the kernel of `triton_product_kernels`.

What few rows cost is the reading of the weights, and between two kernels of a step nothing is read.
So these do at once what is around a product (the norm before it, the gate, the sum behind it), cut
sums until all of a GPU's processors have a part, and begin to fetch their weights before the kernel
in front has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from tandem.engine.torch.triton_chain import Processors, chained
from tandem.engine.torch.triton_layers import embed_scaled
from tandem.engine.torch.triton_product_kernels import multiply_few_rows
from tandem.models.layers import Linear
from tandem.native.library import torch_is_wanted

MAX_ROWS = 64
# The fewest rows that the matrix units take.
MIN_ROWS = 16
# A split has so many steps at the least: what it costs is to be less than it gains.
MIN_STEPS = 4
PROGRAMS_A_PROCESSOR = 2
MAX_STAGES = 5


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program's share: `outs` outputs (of a gated product `gates`), of whose sums it takes `step`
    items at a time; before the kernel in front has ended, it fetches so many lines of each one's
    weights."""

    outs: int
    gates: int
    step: int
    lines_ahead: int


# Few programs, which cut sums among them; or, of the fewest rows, more programs with whole sums.
WIDE = Tiling(outs=64, gates=64, step=128, lines_ahead=8)
NARROW = Tiling(outs=16, gates=16, step=512, lines_ahead=32)
# Of more rows, whose items take the place of weights on their way: shorter steps, and more of them.
DEEP = Tiling(outs=64, gates=64, step=64, lines_ahead=16)


def takes_few_rows(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `FewRows` may be faster than torch's library: for what the matrix units multiply, on
    NVIDIA's GPUs, unless the library is asked for (`TANDEM_KERNELS=torch`)."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    # What is scaled and not yet normed may be more than float16 holds.
    return is_nvidia and dtype == torch.bfloat16 and not torch_is_wanted()


@dataclass(frozen=True, slots=True)
class Residual:
    """A step's residual stream, `hidden` [rows, size], and what products take that norm it:
    `scaled` is the same by the weights of the norm, `squares` [rows, sums] sums of its squares."""

    hidden: Tensor
    scaled: Tensor
    squares: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Cut:
    """How a product is cut: into `tiles` of its outputs, and each sum into `splits`. The weights of
    so many steps (`stages`) are on their way to a program."""

    tiles: int
    splits: int
    stages: int

    @classmethod
    def of(
        cls,
        processors: Processors,
        tiling: Tiling,
        num_outs: int,
        size: int,
        step_bytes: int,
        *,
        is_gated: bool,
    ) -> Cut:
        """Sums are cut where tiles are too few, but not those of a gate: it would have to wait for
        those of what it is for. `step_bytes` is what a program takes at a time."""
        tiles = triton.cdiv(num_outs, tiling.gates if is_gated else tiling.outs)
        programs = processors.count * PROGRAMS_A_PROCESSOR
        most = min(programs // tiles, triton.cdiv(size, tiling.step) // MIN_STEPS)
        splits = 1 if is_gated else 1 << max(0, most.bit_length() - 1)
        # In a chain the next kernel's come beside this one's.
        own = triton.cdiv(tiles * splits, processors.count)
        beside = PROGRAMS_A_PROCESSOR if processors.can_chain else min(PROGRAMS_A_PROCESSOR, own)
        stages = processors.shared_bytes // beside // step_bytes
        return cls(tiles, splits, max(2, min(MAX_STAGES, stages)))


class FewRows:
    """Products of at most `MAX_ROWS` rows in one model's steps, one after the other: parts of their
    sums lie in the same memory."""

    def __init__(self, device: torch.device, tiling: Tiling) -> None:
        self._processors = Processors.of(device)
        self._tiling = tiling
        most = self._processors.count * PROGRAMS_A_PROCESSOR
        size = most * tiling.outs * MAX_ROWS
        self._parts = torch.empty(size, dtype=torch.float32, device=device)
        # How many of a tile's splits have ended: 0 between two products.
        self._counts = torch.zeros(most, dtype=torch.int32, device=device)

    @property
    def is_chained(self) -> bool:
        """Whether what is between them is to be chained with them."""
        return self._processors.can_chain

    def embedded(
        self, token_ids: Tensor, last_tokens: Tensor, weight: Tensor, norm: Tensor, eps: float
    ) -> Residual:
        """The residual stream's beginning, with `norm` as the first norm; the tokens as `embed`
        takes them."""
        num_sums = triton.cdiv(weight.shape[1], self._tiling.outs)
        embedded = embed_scaled(
            token_ids, last_tokens, weight, norm, num_sums, is_chained=self.is_chained
        )
        return Residual(*embedded, eps)

    def normed(self, x: Residual, linear: Linear, out: Tensor | None = None) -> Tensor:
        """`linear` of the norm of `x`, [rows, out]; in `out` if it is given."""
        if out is None:
            out = x.hidden.new_empty(len(x.hidden), len(linear.weight))
        self._multiply(x.scaled, linear, out, x)
        return out

    def gated(self, x: Residual, linear: Linear) -> Tensor:
        """`silu_and_mul` of that, [rows, out / 2]."""
        out = x.hidden.new_empty(len(x.hidden), len(linear.weight) // 2)
        self._multiply(x.scaled, linear, out, x, is_gated=True)
        return out

    def add(self, x: Tensor, linear: Linear, residual: Residual, norm: Tensor) -> None:
        """Add `linear` of `x` [rows, in]; `norm` is the weights of the norm that comes next."""
        self._multiply(x, linear, residual.hidden, residual, norm)

    def _multiply(
        self,
        x: Tensor,
        linear: Linear,
        out: Tensor,
        residual: Residual,
        norm: Tensor | None = None,
        *,
        is_gated: bool = False,
    ) -> None:
        num_rows, size = x.shape
        num_outs = out.shape[1]
        rows = max(MIN_ROWS, triton.next_power_of_2(num_rows))
        tiling = self._tiling
        tile = tiling.gates if is_gated else tiling.outs
        step_bytes = (tile * (1 + is_gated) + rows) * tiling.step * x.itemsize
        cut = Cut.of(self._processors, tiling, num_outs, size, step_bytes, is_gated=is_gated)
        num_sums = residual.squares.shape[1] if norm is None else 0
        multiply_few_rows[(cut.tiles, cut.splits)](
            *(x, linear.weight, linear.bias, out),
            *(norm, residual.scaled, residual.squares, self._parts, self._counts),
            *(num_rows, residual.eps),
            OUT=num_outs,
            SIZE=size,
            TILE=tile,
            STEP=tiling.step,
            SPLITS=cut.splits,
            ROWS=rows,
            LINES_AHEAD=tiling.lines_ahead,
            SUMS=num_sums,
            PADDED_SUMS=triton.next_power_of_2(num_sums),
            HAS_BIAS=linear.bias is not None,
            GATED=is_gated,
            ADDED=norm is not None,
            num_stages=cut.stages,
            **chained(self.is_chained),
        )
