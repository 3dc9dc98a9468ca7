"""From the hub into the cache.

A pull lists the repository (one commit, names, sizes, hashes), fetches what describes the model and
checks it, then fetches the weights into `downloads/`, file by file: to `NAME.part` first, which a
later pull goes on from, then under its own name once its hash is right, which that pull looks at
again. The whole folder moves to
`models/` in one step. A GGUF file is converted in between.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tandem.artifacts.cache import locked_download, models_dir, put_in_place, writing_to_cache
from tandem.artifacts.config import ModelConfig
from tandem.artifacts.hub import fetch, list_files
from tandem.artifacts.hub_files import HubFile, HubListing
from tandem.artifacts.hub_reference import HubReference
from tandem.artifacts.json_object import read_json_object
from tandem.artifacts.model_folder import INDEX_FILE, ModelFolder, shards_of
from tandem.artifacts.progress import DOWNLOADING, ProgressCallback
from tandem.artifacts.provenance import IMPORT_VERSION, Provenance
from tandem.artifacts.pull import is_outdated
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import ConfigError

SOURCE = "hub"


def hub_folder(reference: HubReference) -> Path:
    """Where the model is once it has been pulled."""
    return models_dir() / "hub" / reference.folder_name


def pull_hub(reference: HubReference, progress: ProgressCallback) -> Path:
    """The folder of a model on the hub, downloaded if the cache lacks it.

    Several processes may pull at once: for each model one does the work and the others wait. Raises
    `ConfigError`.
    """
    destination = hub_folder(reference)
    if destination.exists() and not is_outdated(destination):
        return destination
    with locked_download(reference.folder_name, progress) as downloads, writing_to_cache():
        if not destination.exists() or is_outdated(destination):
            progress("asking the hub", 0, None)
            listing = list_files(reference)
            folder = _folder_of_commit(downloads, listing.commit)
            gguf = listing.gguf()
            if gguf is not None:
                folder = _pull_gguf(listing, gguf, folder, progress)
            else:
                _pull_safetensors(listing, folder, progress)
            version = None if gguf is None else IMPORT_VERSION
            Provenance(str(reference), SOURCE, listing.commit, version).write(folder)
            ModelFolder.open(folder)
            put_in_place(folder, destination)
            shutil.rmtree(downloads)
    return destination


def _pull_safetensors(listing: HubListing, folder: Path, progress: ProgressCallback) -> None:
    describing = listing.describing()
    _download(listing, describing, folder, progress)
    # Before the weights, which may take hours.
    config = read_json_object(folder / "config.json")
    ModelConfig.from_json(config.data, f"{listing.reference}: config.json")
    Tokenizer.open(folder)
    index = folder / INDEX_FILE
    shards = shards_of(read_json_object(index)) if index.exists() else []
    _download(listing, listing.weights(shards), folder, progress)


def _pull_gguf(
    listing: HubListing, file: HubFile, folder: Path, progress: ProgressCallback
) -> Path:
    # Here: see `find_config`.
    from tandem.artifacts.gguf_import import import_gguf

    _download(listing, [file], folder, progress)
    converted = folder / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    import_gguf(folder / file.name, converted, progress)
    return converted


def _folder_of_commit(downloads: Path, commit: str) -> Path:
    """Files of another commit do not fit: they go."""
    folder = downloads / commit
    folder.mkdir(parents=True, exist_ok=True)
    for other in downloads.iterdir():
        if other != folder:
            shutil.rmtree(other)
    return folder


def _download(
    listing: HubListing, files: Iterable[HubFile], folder: Path, progress: ProgressCallback
) -> None:
    progress("checking", 0, None)
    wanted = [file for file in files if not _is_whole(file, folder / file.name)]
    parts = {file.name: folder / f"{file.name}.part" for file in wanted}
    total = sum(file.size for file in wanted)
    done = sum(part.stat().st_size for part in parts.values() if part.exists())
    _require_room(listing, total - done, folder)

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(DOWNLOADING, done, total)

    on_bytes(0)
    for file in wanted:
        part = parts[file.name]
        if part.exists() and part.stat().st_size > file.size:
            part.unlink()  # never written by us: it cannot be gone on from
        fetch(listing, file, part, on_bytes)
        _check(listing, file, part)
        part.rename(folder / file.name)


def _require_room(listing: HubListing, num_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ConfigError(
            f"{listing.reference} takes {num_bytes / 1e9:.3g} GB more, but {folder} has room for"
            f" {free / 1e9:.3g} GB: free some space or set TANDEM_CACHE to another folder"
        )


def _check(listing: HubListing, file: HubFile, part: Path) -> None:
    """Compare with the hub's hash; what differs is of no use. Raises `ConfigError`."""
    if not _is_whole(file, part):
        part.unlink()
        raise ConfigError(
            f"what came as {file.name} of {listing.reference} is not what the hub has (its hash"
            " differs): pull again; if that stays so, something on the way changes files"
        )


def _is_whole(file: HubFile, path: Path) -> bool:
    """Whether a file is there, and what the hub has, as far as it tells."""
    if not path.exists() or path.stat().st_size != file.size:
        return False
    with path.open("rb", buffering=0) as content:
        if file.sha256 is not None:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
        if file.blob_id is None:
            return True
        # Not for security, which is the connection's: this is how git names what it holds.
        git = partial(hashlib.sha1, b"blob %d\0" % file.size, usedforsecurity=False)
        return hashlib.file_digest(content, git).hexdigest() == file.blob_id
