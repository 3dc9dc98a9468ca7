"""From what the user calls a model to its folder."""

from __future__ import annotations

import os
from pathlib import Path

from tandem.artifacts.catalog import find_model
from tandem.artifacts.hub_reference import SYNTAX, HubReference
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.progress import ProgressCallback, silent
from tandem.artifacts.pull import (
    default_folder,
    imported_folder,
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
    """As `resolve`, but None if the model must be fetched or imported first."""
    # os.path, since a Path raises where the text can be no path at all.
    path = os.path.expanduser(model)
    if model == DEFAULT:
        folder = default_folder()
    elif model == MOCK:
        folder = MOCK_FOLDER
    elif model.lower().endswith(".gguf") and os.path.isfile(path):
        folder = imported_folder(Path(path))
    elif os.path.isdir(path):
        folder = Path(path)
    elif cached := find_model(model):
        folder = cached
    elif HubReference.parse(model):
        return None
    else:
        raise ConfigError(
            f"there is no model {model!r:.200}: write {DEFAULT!r}, {MOCK!r}, a name from `tandem"
            " models`, the path of a folder in Hugging Face's layout, the path of a .gguf file, or"
            f" a model on the hub, {SYNTAX}",
            param="model",
        )
    return ModelFolder.open(folder) if folder.exists() else None


def _fetch(model: str, progress: ProgressCallback) -> Path:
    """What `find` did not find."""
    path = os.path.expanduser(model)
    if model == DEFAULT:
        return pull(progress)
    if os.path.isfile(path):
        return pull_gguf(Path(path), progress)
    if reference := HubReference.parse(model):
        from tandem.artifacts.hub_pull import pull_hub  # its HTTP client takes a while to import

        return pull_hub(reference, progress)
    raise ConfigError(f"model {model!r:.200} has just been removed", param="model")


def pull_model(model: str, progress: ProgressCallback = silent) -> ModelFolder:
    """As `resolve`, but the folder is in the cache: another is copied. Raises `ConfigError`."""
    folder = resolve(model, progress)
    return folder if model == MOCK else ModelFolder.open(pull_folder(folder, progress))
