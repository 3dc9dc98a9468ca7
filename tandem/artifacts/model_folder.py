"""A model on disk, in Hugging Face's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import xxhash

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.families import MOCK
from tandem.artifacts.json_object import JsonObject, read_json_object
from tandem.artifacts.provenance import Provenance
from tandem.artifacts.safetensors_header import read_safetensors_header
from tandem.artifacts.special_tokens import eos_token_id
from tandem.artifacts.tokenizer import Tokenizer, read_chat_templates
from tandem.core.errors import ConfigError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
REQUIRED_FILES = ("config.json", "tokenizer.json")
OPTIONAL_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose files are there and fit together. Make it with `open`.

    `name` is what clients call it: the one that it was pulled by, else the folder's.
    `weight_files` are safetensors, sorted by name; the mock model has none. `weight_stamps` are
    their sizes, and when they were modified.
    """

    path: Path
    name: str
    config: ModelConfig
    weight_files: tuple[Path, ...]
    weight_stamps: tuple[tuple[int, int], ...]

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Check what is cheap to check: files, config, and the weights' headers against their
        sizes, but no tensor. Raises `ConfigError` that says what to do."""
        path = path.resolve()
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder: give one that holds config.json")
        config = _read_config(path)
        provenance = Provenance.read(path)
        if not (path / "tokenizer.json").is_file():
            raise ConfigError(f"{path / 'tokenizer.json'} is missing: a model folder must hold it")
        weight_files = () if config.architecture == MOCK else _find_weights(path)
        name = provenance.name if provenance else path.name.lower()
        return cls(path, name, config, weight_files, tuple(map(_stamp, weight_files)))

    @property
    def files(self) -> list[Path]:
        """All files that make the model, those that describe it first."""
        names = (*REQUIRED_FILES, *OPTIONAL_FILES, INDEX_FILE)
        found = [self.path / name for name in names if (self.path / name).is_file()]
        if self.path / SINGLE_FILE in self.weight_files and self.path / INDEX_FILE in found:
            found.remove(self.path / INDEX_FILE)
        return [*found, *self.weight_files]

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that two workers share if they hold the same architecture and weights.

        Reads all weights, once. Raises `ConfigError` if they cannot be read any more, or are others
        than those that were opened.
        """
        digest = xxhash.xxh3_128(self.config.canonical_json())
        for file in self.weight_files:
            _add_file(digest, file)
        self.check_unchanged()
        return digest.hexdigest()

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """32 hex digits that tell `tokenizer.json` from any other. Raises `ConfigError`."""
        digest = xxhash.xxh3_128()
        _add_file(digest, self.path / "tokenizer.json")
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise `ConfigError` if the weights are no longer those that were opened: the fingerprint
        and what is loaded must be of the same."""
        for file, stamp in zip(self.weight_files, self.weight_stamps, strict=True):
            if _stamp(file) != stamp:
                raise ConfigError(f"{file} was changed while it was read: start again")

    @property
    def weight_bytes(self) -> int:
        """Size of the weight files together."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def has_chat_template(self) -> bool:
        """Raises `ConfigError` if it cannot be read."""
        return bool(read_chat_templates(self.path))

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read anew. Raises `ConfigError`."""
        return Tokenizer.open(self.path)


def _read_config(folder: Path) -> ModelConfig:
    fields = read_json_object(folder / "config.json")
    eos_token_ids = set(fields.integers("eos_token_id"))
    generation = folder / "generation_config.json"
    if generation.exists():
        # Chat models name the end of a turn there, besides the end of a text.
        eos_token_ids.update(read_json_object(generation).integers("eos_token_id"))
    data: Mapping[str, object] = {**fields.data, "eos_token_id": sorted(eos_token_ids)}
    config = ModelConfig.from_json(data, fields.source)
    # Or only in the tokenizer's config, which may know tokens that the model does not.
    token_id = eos_token_id(folder)
    if token_id is None or token_id >= config.vocab_size:
        return config
    return replace(config, eos_token_ids=config.eos_token_ids | {token_id})


def _find_weights(folder: Path) -> tuple[Path, ...]:
    if (folder / SINGLE_FILE).exists():
        read_safetensors_header(folder / SINGLE_FILE)
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).exists():
        return _find_shards(read_json_object(folder / INDEX_FILE), folder)
    raise ConfigError(
        f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}: weights in other formats must be"
        " converted to safetensors first (a GGUF file can be given itself)"
    )


def shards_of(index: JsonObject) -> list[str]:
    """The names of the files that an index refers to, sorted. Raises `ConfigError`."""
    weight_map = index.object("weight_map")
    shards = sorted({weight_map.text(tensor) for tensor in weight_map.data})
    for name in shards:
        if Path(name).name != name or name in ("", ".."):
            raise ConfigError(f"{weight_map.source}: {name!r:.80} must be the name of a file here")
    return shards


def _find_shards(index: JsonObject, folder: Path) -> tuple[Path, ...]:
    shards = shards_of(index)
    held = {name: read_safetensors_header(folder / name) for name in shards}
    weight_map = index.object("weight_map")
    for tensor in weight_map.data:
        name = weight_map.text(tensor)
        if tensor not in held[name]:
            raise ConfigError(f"{folder / name} lacks the tensor {tensor!r:.80}: fetch it again")
    return tuple(folder / name for name in shards)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot read {path}") from error
    return stat.st_size, stat.st_mtime_ns


def _add_file(digest: xxhash.xxh3_128, path: Path) -> None:
    # With its length, so that bytes cannot move from one file to the next unnoticed.
    size, _ = _stamp(path)
    digest.update(size.to_bytes(8, "little"))
    try:
        # Read, not mapped: a page fault for each 4 KiB costs more than the copy.
        with path.open("rb", buffering=0) as file:
            hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise ConfigError(f"cannot read {path}") from error
