"""The tensors of a model's safetensors files, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tandem.artifacts.tensor_shapes import Shape
from tandem.core.errors import ConfigError

FLOAT_DTYPES = ("F32", "F16", "BF16")


class Checkpoint:
    """Opens the files of a model, memory-mapped, for the length of a `with`.

    Every tensor is wanted with a shape, and nothing in the files goes unused in silence:
    `ConfigError` names the tensor.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._sources: dict[str, Path] = {}
        with self._stack:
            for path in files:
                self._open(path)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, shapes: Mapping[str, Shape], tied: Mapping[str, str]) -> None:
        """Raise `ConfigError` unless the files hold exactly `shapes`, besides copies of some, which
        `tied` names, and the tables of rotary embeddings, which old checkpoints carry along."""
        self.check_shapes(shapes)
        for copy, name in tied.items():
            self._check_copy(copy, name, shapes[name])
        unknown = self._files.keys() - shapes.keys() - tied.keys()
        for name in sorted(unknown):
            if not name.endswith("rotary_emb.inv_freq"):
                raise ConfigError(
                    f"{self._sources[name]} holds {name!r}, which this architecture does not use"
                )

    def check_shapes(self, shapes: Mapping[str, Shape]) -> None:
        """Raise `ConfigError` unless the files hold these. No tensor is read."""
        for name, shape in shapes.items():
            self._check_tensor(name, shape)

    def read(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A copy of a tensor that `check` has seen."""
        return self._stored(name).to(device=device, dtype=dtype, copy=True)

    def _stored(self, name: str) -> Tensor:
        with _translated(self._sources[name]):
            tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def _open(self, path: Path) -> None:
        with _translated(path):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if name in self._files:
                raise ConfigError(f"{name!r} is both in {self._sources[name]} and in {path}")
            self._files[name] = file
            self._sources[name] = path

    def _check_tensor(self, name: str, shape: Shape) -> None:
        if name not in self._files:
            raise ConfigError(f"the model's weights lack {name!r}")
        found = self._files[name].get_slice(name)
        if tuple(found.get_shape()) != shape:
            raise ConfigError(
                f"{self._sources[name]}: {name!r} has shape {list(found.get_shape())}, "
                f"but the model's config asks for {list(shape)}"
            )
        if found.get_dtype() not in FLOAT_DTYPES:
            raise ConfigError(
                f"{self._sources[name]}: {name!r} is stored as {found.get_dtype()}; "
                f"supported are {', '.join(FLOAT_DTYPES)}"
            )

    def _check_copy(self, copy: str, name: str, shape: Shape) -> None:
        if copy not in self._files:
            return
        self._check_tensor(copy, shape)
        both = self._stored(copy), self._stored(name)
        # The same numbers may be stored with more bits in one of them.
        dtype = min(both, key=lambda each: each.itemsize).dtype
        if not torch.equal(both[0].to(dtype), both[1].to(dtype)):
            raise ConfigError(
                f"{self._sources[copy]}: {copy!r} differs from {name!r}, to which the model's "
                "config ties it: set tie_word_embeddings to false there"
            )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
