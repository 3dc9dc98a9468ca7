"""The header of a safetensors file: which tensors it holds and where, without reading them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from tandem.core.errors import ConfigError

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: `dtype` in safetensors' names, bytes `[start, end)` counted from the file's
    beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """The file's tensors by name.

    Checks that they fill the file exactly, so that a truncated download is found without reading
    the weights. Raises `ConfigError`.
    """
    try:
        return _read(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a whole safetensors file ({error}): fetch it again"
        ) from error


def _read(path: Path) -> dict[str, TensorEntry]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        data_start = LENGTH_BYTES + length
        if length > MAX_HEADER_BYTES or data_start > size:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    entries = {name: _entry(name, fields, data_start) for name, fields in header.items()}
    _check_contiguous(entries, data_start, size)
    return entries


def _entry(name: str, fields: dict[str, object], data_start: int) -> TensorEntry:
    dtype = fields["dtype"]
    shape = _naturals(name, fields["shape"])
    start, end = _naturals(name, fields["data_offsets"])
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise ValueError(f"{name!r:.80} has the unknown type {dtype!r:.20}")
    if end - start != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"the size of {name!r:.80} does not match its shape")
    return TensorEntry(dtype, shape, data_start + start, data_start + end)


def _naturals(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise ValueError(f"the entry of {name!r:.80} is malformed")
    return tuple(value)


def _check_contiguous(entries: dict[str, TensorEntry], data_start: int, size: int) -> None:
    position = data_start
    for entry in sorted(entries.values(), key=lambda each: (each.start, each.end)):
        if entry.start != position:
            raise ValueError("its tensors overlap or leave gaps")
        position = entry.end
    if position != size:
        raise ValueError(f"{size} bytes long, but its header describes {position}")
