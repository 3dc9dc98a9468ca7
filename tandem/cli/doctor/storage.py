"""Looks for the model, and at the place where models are kept."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.pull import DEFAULT_CONFIG, DEFAULT_NAME, PULL_BYTES, WHEEL_BYTES
from tandem.artifacts.resolve import DEFAULT, find, find_config
from tandem.artifacts.tensor_shapes import tensor_shapes
from tandem.artifacts.weight_counts import WeightCounts
from tandem.cli.doctor.machine import Folder, HubModel, Model, NoModel
from tandem.core.errors import ConfigError
from tandem.worker.step_memory import StepMemory

BFLOAT16_BYTES = 2
DEFAULT_CHECKPOINT_BYTES = 269_060_000


def probe_model(name: str) -> Model | HubModel | NoModel:
    """The model, here or not, without fetching it."""
    try:
        folder = find(name)
        if folder:
            return _model(folder.name, folder.config, folder.weight_bytes)
        if name == DEFAULT:
            return DEFAULT_MODEL
        config = find_config(name)
        return _importable(Path(name).expanduser(), config) if config else HubModel(name)
    except ConfigError as error:
        return NoModel(error.message)


def probe_folder(path: Path) -> Folder:
    """A folder, or where it would be made."""
    path = path.absolute()
    exists_at = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    return Folder(
        path=str(path),
        exists_at=str(exists_at),
        is_writable=exists_at.is_dir() and os.access(exists_at, os.W_OK | os.X_OK),
        free_bytes=shutil.disk_usage(exists_at).free,
    )


def _importable(gguf: Path, config: ModelConfig) -> Model:
    """A GGUF file that is to become a folder with bfloat16 weights."""
    num_params = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    num_bytes = num_params * BFLOAT16_BYTES
    return _model(gguf.stem.lower(), config, num_bytes, import_bytes=num_bytes)


def _model(
    name: str,
    config: ModelConfig,
    checkpoint_bytes: int,
    *,
    download_bytes: int = 0,
    import_bytes: int = 0,
) -> Model:
    return Model(
        name=name,
        checkpoint_bytes=checkpoint_bytes,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_model_len=config.max_position_embeddings,
        weights=WeightCounts.of(config),
        steps=StepMemory.of(config),
        download_bytes=download_bytes,
        import_bytes=import_bytes,
    )


# The default model before it is here.
DEFAULT_MODEL = _model(
    DEFAULT_NAME,
    DEFAULT_CONFIG,
    DEFAULT_CHECKPOINT_BYTES,
    download_bytes=WHEEL_BYTES,
    import_bytes=PULL_BYTES,
)
