"""From what the user calls a model to its folder."""

from __future__ import annotations

import os
from pathlib import Path

from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.progress import ProgressCallback, silent
from tandem.artifacts.pull import default_folder, imported_folder, pull, pull_gguf
from tandem.core.errors import ConfigError

DEFAULT = "default"
MOCK_FOLDER = Path(__file__).parent / "mock"


def resolve(model: str, progress: ProgressCallback = silent) -> ModelFolder:
    """The folder of `model`: `default` (SmolLM2-135M-Instruct, downloaded at first), `mock` (no
    weights, for fake engines), a folder in Hugging Face's layout, or a `.gguf` file (imported at
    first). `progress` hears of downloads and imports. Raises `ConfigError`."""
    if found := find(model):
        return found
    return ModelFolder.open(
        pull(progress) if model == DEFAULT else pull_gguf(_path(model), progress)
    )


def find(model: str) -> ModelFolder | None:
    """The same without any work: None if the model must be downloaded or imported first."""
    if model == DEFAULT:
        folder = default_folder()
    elif model == "mock":
        folder = MOCK_FOLDER
    elif model.lower().endswith(".gguf") and os.path.isfile(os.path.expanduser(model)):
        folder = imported_folder(_path(model))
    elif os.path.isdir(os.path.expanduser(model)):
        return ModelFolder.open(_path(model))
    else:
        raise ConfigError(
            f"there is no model {model!r:.200}: write {DEFAULT!r}, 'mock', the path of a folder in"
            " Hugging Face's layout, or the path of a .gguf file",
            param="model",
        )
    return ModelFolder.open(folder) if folder.exists() else None


def _path(model: str) -> Path:
    # Only of what was found: a Path raises where the text can be no path at all.
    return Path(os.path.expanduser(model))
