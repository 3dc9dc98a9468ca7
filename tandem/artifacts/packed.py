"""What lies in the cache of weights that are packed for a processor's kernels.

Each model has a folder there, named by its fingerprint, with a file for each form of its weights
(type, quantisation, kernels) and a note of whose they are. They can be made again at any time, so
what nobody has used for long goes when there is much. A file goes by its name alone: processes that
map it keep it as long as they live.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time

from tandem.artifacts.cache import packed_dir
from tandem.artifacts.json_object import read_json_object
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.errors import ConfigError

SUFFIX = ".weights"
PARTIAL = ".partial"
"""Of a file that is being written, or was when its process was killed."""
STALE_S = 3600.0
"""Nobody writes for so long without a byte."""
ORIGIN = "model.json"
MAX_BYTES = 32 * 2**30
"""Of all models together."""


@dataclass(frozen=True, slots=True)
class PackedModel:
    """What was packed of one model. `name` and `path` are the model's, `folder` holds the files,
    `size` is theirs in bytes."""

    name: str
    path: Path
    folder: Path
    size: int


def list_packed() -> list[PackedModel]:
    """Of which models there are packed weights, by name."""
    found = (_open(folder) for folder in packed_dir().glob("*/"))
    return sorted((each for each in found if each), key=lambda each: each.name.lower())


def note_origin(folder: Path, model: ModelFolder) -> None:
    """Say whose packed weights lie in a folder, if it is there and can be written."""
    text = json.dumps({"name": model.name, "path": str(model.path)}).encode()
    note = folder / ORIGIN
    with suppress(OSError):
        if folder.is_dir() and not (note.exists() and note.read_bytes() == text):
            note.write_bytes(text)


def remove_unused(root: Path, kept: Path, max_bytes: int) -> None:
    """Remove what has not been used for longest, but `kept` and what is being written, until no
    more than `max_bytes` are left in the folders below `root`. A file was last used when it was
    last modified."""
    files = sorted(_files(root.glob("*/")), key=lambda each: each[1])
    total = sum(size for _, _, size in files)
    for path, used_at, size in files:
        if total <= max_bytes:
            return
        is_written = path.suffix == PARTIAL and time() - used_at < STALE_S
        if path != kept and not is_written:
            path.unlink(missing_ok=True)
            total -= size


def _open(folder: Path) -> PackedModel | None:
    """None if nothing is packed there."""
    size = sum(size for _, _, size in _files([folder]))
    if not size:
        return None
    try:
        origin = read_json_object(folder / ORIGIN)
        return PackedModel(origin.text("name"), Path(origin.text("path")), folder, size)
    except ConfigError:
        return PackedModel(folder.name, folder, folder, size)


def _files(folders: Iterable[Path]) -> Iterator[tuple[Path, float, int]]:
    """What takes room in them, each with when it was last modified, and its size."""
    for folder in folders:
        for path in _entries(folder):
            if path.suffix in (SUFFIX, PARTIAL):
                with suppress(FileNotFoundError):  # another process removes some, too
                    status = path.stat()
                    yield path, status.st_mtime, status.st_size


def _entries(folder: Path) -> list[Path]:
    """None of a folder that another process has removed."""
    with suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []
