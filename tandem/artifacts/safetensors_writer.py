"""Writing a safetensors file piece by piece, so that no whole model is ever in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tandem.artifacts.safetensors_header import ITEM_SIZES, LENGTH_BYTES


def write_safetensors(
    path: Path, dtype: str, shapes: Mapping[str, tuple[int, ...]], pieces: Iterable[NDArray[Any]]
) -> None:
    """Write tensors of one `dtype` (safetensors' name). `pieces` are contiguous arrays of its item
    size that, one after the other, are the tensors of `shapes` in that order."""
    with path.open("wb") as file:
        file.write(_header(dtype, shapes))
        for piece in pieces:
            file.write(piece.data)


def _header(dtype: str, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    # transformers refuses files that do not name the framework.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + math.prod(shape) * ITEM_SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
