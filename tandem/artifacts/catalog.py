"""The models in the cache."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.artifacts.cache import (
    downloads_dir,
    locked_cache,
    locked_download,
    models_dir,
    writing_to_cache,
)
from tandem.artifacts.hub_reference import HubReference
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.packed import list_packed
from tandem.artifacts.progress import silent
from tandem.artifacts.provenance import Provenance
from tandem.artifacts.safetensors_header import read_safetensors_header
from tandem.core.errors import ConfigError, NotFound

# Where folders of models lie in the cache: the default, those from the hub, those of the user.
PATTERNS = ("*/config.json", "hub/*/config.json", "imported/*/*/config.json")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One model in the cache. `source` is what it was made from, None where nobody wrote it down;
    `num_parameters` counts what is stored; `max_model_len` is in tokens, `size` in bytes."""

    name: str
    path: Path
    source: str | None
    revision: str | None
    architecture: str
    num_parameters: int
    num_layers: int
    max_model_len: int
    size: int

    @classmethod
    def open(cls, path: Path) -> CachedModel:
        """Raises `ConfigError`."""
        folder = ModelFolder.open(path)
        provenance = Provenance.read(path)
        headers = [read_safetensors_header(file) for file in folder.weight_files]
        return cls(
            name=folder.name,
            path=path,
            source=provenance.source if provenance else None,
            revision=provenance.revision if provenance else None,
            architecture=folder.config.architecture,
            num_parameters=sum(
                math.prod(entry.shape) for header in headers for entry in header.values()
            ),
            num_layers=folder.config.num_layers,
            max_model_len=folder.config.max_position_embeddings,
            size=_size(path),
        )


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A folder in the cache that cannot be used, or not yet, and why."""

    name: str
    path: Path
    size: int
    problem: str


def list_models() -> list[CachedModel | BrokenModel]:
    """What the cache holds, unfinished downloads included, by name."""
    models = [*map(_open, _folders()), *_unfinished()]
    return sorted(models, key=lambda model: model.name.lower())


def find_model(name: str) -> Path | None:
    """The folder in the cache of the model of this name, None if there is none. Raises
    `ConfigError` if there are several."""
    found = [path for path in _folders() if _name(path) == name]
    _check_one(name, found)
    return found[0] if found else None


def remove_model(name: str) -> Path:
    """Remove a model from the cache, by its name or its folder, and return what its folder was.

    With it goes what was packed of its weights; of a model that lies elsewhere only that. Processes
    that have loaded it go on. Of an unfinished download, waits for a pull that is under way. Raises
    `NotFound` and `ConfigError`.
    """
    by_path = [path for path in _folders() if str(path) == name]
    path = by_path[0] if by_path else find_model(name)
    if path is None and name in (broken.name for broken in _unfinished()):
        return _drop_download(name)
    if path is None and (packed := _packed_of(name)):
        shutil.rmtree(packed)
        return packed
    if path is None:
        raise NotFound(f"there is no model {name!r:.200} in the cache: `tandem models` lists them")
    _drop_packed(path)
    with locked_cache(silent) as scratch, writing_to_cache():
        # In one step, so that nobody opens half of a model.
        path.rename(scratch / "removed")
    return path


def _packed_of(name: str) -> Path | None:
    """Where the packed weights are of a model that is called so, or lies there. Raises
    `ConfigError` if there are several."""
    path = Path(name).expanduser().resolve()
    found = [each for each in list_packed() if each.name == name or each.path == path]
    _check_one(name, [each.path for each in found])
    return found[0].folder if found else None


def _check_one(name: str, paths: Sequence[Path]) -> None:
    if len(paths) > 1:
        several = ", ".join(map(str, paths))
        raise ConfigError(f"several models are called {name!r}: give one's path: {several}")


def _drop_packed(path: Path) -> None:
    for each in list_packed():
        if each.path == path.resolve():
            shutil.rmtree(each.folder, ignore_errors=True)


def _folders() -> Iterator[Path]:
    for pattern in PATTERNS:
        for config in models_dir().glob(pattern):
            yield config.parent


def _unfinished() -> Iterator[BrokenModel]:
    for folder in downloads_dir().glob("*/"):
        if reference := HubReference.parse_folder_name(folder.name):
            problem = f"its download is not finished: `tandem pull {reference}` goes on with it"
            yield BrokenModel(str(reference), folder, _size(folder), problem)


def _drop_download(name: str) -> Path:
    reference = HubReference.parse(name)
    assert reference is not None, "the name comes from one"
    with locked_download(reference.folder_name, silent) as folder, writing_to_cache():
        shutil.rmtree(folder)
    return folder


def _open(path: Path) -> CachedModel | BrokenModel:
    try:
        return CachedModel.open(path)
    except ConfigError as error:
        return BrokenModel(_name(path), path, _size(path), error.message)


def _name(path: Path) -> str:
    try:
        provenance = Provenance.read(path)
    except ConfigError:
        provenance = None  # listed under its folder's name, so that it can be removed
    return provenance.name if provenance else path.name.lower()


def _size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue  # a pull goes on while we look
    return total
