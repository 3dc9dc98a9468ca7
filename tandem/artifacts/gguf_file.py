"""A GGUF file, opened and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
from gguf import GGUFReader, ReaderTensor

from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GgufFile:
    """`metadata` has every key's value as plain Python. `tensors` are views of the mapped file,
    quantised as they are there, all within it."""

    path: Path
    metadata: JsonObject
    tensors: Mapping[str, ReaderTensor]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Parse the header and the metadata. Raises `ConfigError`."""
        try:
            reader = BoundedReader(path)
            metadata = {key: field.contents() for key, field in reader.fields.items()}
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:
            # Whatever the parser stumbles over, in a file that anyone may have made: it is broken.
            raise ConfigError(
                f"{path} is not a whole GGUF file ({error}): fetch it again"
            ) from error
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        return cls(path, JsonObject(metadata, str(path)), tensors)


# The library keeps an object of some hundred bytes for each value. The largest vocabularies have
# about two million.
MAX_VALUES = 4_000_000


class BoundedReader(GGUFReader):
    """Fails at the end of the file, where the library's own reader goes on with empty values (and
    loops for ever if a damaged count says so), and before it takes much memory."""

    _num_values = 0

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> npt.NDArray[Any]:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise ValueError(f"its metadata has more than {MAX_VALUES} values")
        found = super()._get(offset, dtype, count, override_order)
        if len(found) != int(count):
            raise ValueError(f"it ends before byte {offset + int(count) * found.itemsize}")
        return found
