"""From what the user calls a model to its folder."""

from __future__ import annotations

import os
from pathlib import Path

from tandem.artifacts.catalog import find_model
from tandem.artifacts.config import ModelConfig
from tandem.artifacts.hub_reference import SYNTAX, HubReference
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.progress import ProgressCallback, silent
from tandem.artifacts.pull import (
    DEFAULT_CONFIG,
    default_folder,
    imported_folder,
    is_outdated,
    pull,
    pull_folder,
    pull_gguf,
)
from tandem.core.errors import ConfigError

DEFAULT = "default"
MOCK = "mock"
MOCK_FOLDER = Path(__file__).parent / "mock"


def resolve(model: str, progress: ProgressCallback = silent) -> ModelFolder:
    """The folder of `model`, fetched or imported if need be, which `progress` hears of.

    In this order: `default` (SmolLM2-135M-Instruct), `mock` (no weights, for fake engines), a
    `.gguf` file, a folder in Hugging Face's layout (used where it is), a name that `tandem models`
    lists, a model on the hub. What is in the cache is never looked up on the hub again. Raises
    `ConfigError`.
    """
    return find(model) or ModelFolder.open(_fetch(model, progress))


def find(model: str) -> ModelFolder | None:
    """The same without any work: None if the model must be fetched or imported first."""
    if model == DEFAULT:
        folder: Path | None = default_folder()
    elif model == MOCK:
        folder = MOCK_FOLDER
    elif gguf := _gguf_file(model):
        folder = imported_folder(gguf)
    elif os.path.isdir(os.path.expanduser(model)):
        folder = Path(os.path.expanduser(model))
    else:
        folder = find_model(model)
        if folder is None:
            _hub_reference(model)
    return ModelFolder.open(folder) if folder and folder.exists() else None


def find_config(model: str) -> ModelConfig | None:
    """The model's config, likewise without any work: None if the hub alone knows it. Raises
    `ConfigError`."""
    if folder := find(model):
        return folder.config
    if model == DEFAULT:
        return DEFAULT_CONFIG
    if gguf := _gguf_file(model):
        # Here, since few need the library: it would be a twentieth of each service's imports.
        from tandem.artifacts.gguf_config import gguf_config
        from tandem.artifacts.gguf_file import GgufFile

        return ModelConfig.from_json(gguf_config(GgufFile.open(gguf)), str(gguf))
    return None


def pull_model(model: str, progress: ProgressCallback = silent) -> ModelFolder:
    """As `resolve`, but the folder is in the cache: another is copied. What another version made of
    a GGUF file from elsewhere is fetched anew, too. Raises `ConfigError`."""
    folder = resolve(model, progress)
    if is_outdated(folder.path) and (model == DEFAULT or HubReference.parse(model)):
        return ModelFolder.open(_fetch(model, progress))
    return folder if model == MOCK else ModelFolder.open(pull_folder(folder, progress))


def _fetch(model: str, progress: ProgressCallback) -> Path:
    if model == DEFAULT:
        return pull(progress)
    if gguf := _gguf_file(model):
        return pull_gguf(gguf, progress)
    from tandem.artifacts.hub_pull import pull_hub  # its HTTP client takes a while to import

    return pull_hub(_hub_reference(model), progress)


def _gguf_file(model: str) -> Path | None:
    # os.path, since a Path raises where the text can be no path at all.
    path = os.path.expanduser(model)
    return Path(path) if model.lower().endswith(".gguf") and os.path.isfile(path) else None


def _hub_reference(model: str) -> HubReference:
    if os.path.isfile(os.path.expanduser(model)):
        raise ConfigError(
            f"{model} is a file: give the folder that it is in, in Hugging Face's layout, or a"
            " file whose name ends in .gguf",
            param="model",
        )
    if reference := HubReference.parse(model):
        return reference
    raise ConfigError(
        f"there is no model {model!r:.200}: write {DEFAULT!r}, {MOCK!r}, a name from `tandem"
        " models`, the path of a folder in Hugging Face's layout, the path of a .gguf file, or a"
        f" model on the hub, {SYNTAX}",
        param="model",
    )
