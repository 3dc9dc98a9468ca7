"""How an engine's weights are stored."""

from __future__ import annotations

from enum import StrEnum


class Quantization(StrEnum):
    """The names are the command line's."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Of a weight; 0 if weights are not quantised."""
        return {Quantization.NONE: 0, Quantization.INT8: 8, Quantization.INT4: 4}[self]
