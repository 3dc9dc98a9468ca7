"""How much memory a model's weights take, in the form in which they are computed with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.tensor_shapes import EMBEDDING, LM_HEAD, tensor_shapes
from tandem.core.kv import ITEM_SIZES
from tandem.core.quantization import Quantization

# As `quantized.h` stores them: neighbours share a scale and an offset, two bfloat16.
GROUP = 32
SCALES_BYTES = 4
HEAD_BITS = 8


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """The weights of a model's matrices: of its embedding, of its head (0 if that is the
    embedding), of all layers' projections. Those of norms and biases, about a thousandth of all,
    are not counted."""

    embedding: int = 0
    head: int = 0
    projections: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> WeightCounts:
        matrices = {
            name: math.prod(shape)
            for name, shape in tensor_shapes(config).items()
            if len(shape) > 1
        }
        embedding, head = matrices.pop(EMBEDDING), matrices.pop(LM_HEAD, 0)
        return cls(embedding, head, sum(matrices.values()))

    def num_bytes(self, dtype: str, quantization: Quantization = Quantization.NONE) -> int:
        """Bytes once loaded, but for what pads them. Quantised, the embedding stays in `dtype`, a
        key of `ITEM_SIZES`, and the head is a copy of its own in 8 bits."""
        item = ITEM_SIZES[dtype]
        if quantization is Quantization.NONE:
            return (self.embedding + self.head + self.projections) * item
        head = self.head or self.embedding
        quantized = _packed(head, HEAD_BITS) + _packed(self.projections, quantization.bits)
        return self.embedding * item + quantized


def _packed(count: int, bits: int) -> int:
    return count * bits // 8 + count // GROUP * SCALES_BYTES
