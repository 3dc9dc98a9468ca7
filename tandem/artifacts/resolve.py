"""From what the user calls a model to its folder."""

from __future__ import annotations

import os
from pathlib import Path

from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.progress import ProgressCallback, silent
from tandem.artifacts.pull import pull, pull_gguf
from tandem.core.errors import ConfigError

DEFAULT = "default"
MOCK_FOLDER = Path(__file__).parent / "mock"


def resolve(model: str, progress: ProgressCallback = silent) -> ModelFolder:
    """The folder of `model`: `default` (SmolLM2-135M-Instruct, downloaded at first), `mock` (no
    weights, for fake engines), a folder in Hugging Face's layout, or a `.gguf` file (imported at
    first). `progress` hears of downloads and imports. Raises `ConfigError`."""
    if model == DEFAULT:
        return ModelFolder.open(pull(progress))
    if model == "mock":
        return ModelFolder.open(MOCK_FOLDER)
    # os.path, since a Path raises where the text can be no path at all.
    path = os.path.expanduser(model)
    if model.lower().endswith(".gguf") and os.path.isfile(path):
        return ModelFolder.open(pull_gguf(Path(path), progress))
    if os.path.isdir(path):
        return ModelFolder.open(Path(path))
    raise ConfigError(
        f"there is no model {model!r:.200}: write {DEFAULT!r}, 'mock', the path of a folder in"
        " Hugging Face's layout, or the path of a .gguf file",
        param="model",
    )
