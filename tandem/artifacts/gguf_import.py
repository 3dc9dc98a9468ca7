"""Turning a GGUF file into a Hugging Face folder with bfloat16 weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.gguf_config import gguf_config
from tandem.artifacts.gguf_file import GgufFile
from tandem.artifacts.gguf_tensors import bfloat16_pieces, check_tensors
from tandem.artifacts.gguf_tokenizer import gguf_tokenizer, gguf_tokenizer_config
from tandem.artifacts.model_folder import SINGLE_FILE
from tandem.artifacts.progress import ProgressCallback, silent
from tandem.artifacts.safetensors_writer import write_safetensors
from tandem.artifacts.tensor_shapes import tensor_shapes
from tandem.core.errors import ConfigError


def import_gguf(gguf: Path, destination: Path, progress: ProgressCallback = silent) -> None:
    """Write `destination`, a folder that must not exist yet, from a GGUF file.

    Supported are the architectures llama (and what is converted as such: Mistral, SmolLM2), qwen2
    and qwen3, in every quantisation that the gguf library reads. The folder appears whole or not
    at all. Raises `ConfigError`.
    """
    if destination.exists():
        raise ConfigError(f"{destination} exists already: remove it to import again")
    progress("reading", 0, None)
    file = GgufFile.open(gguf)
    with _appearing(destination) as folder:
        _write_folder(file, folder, progress)


def _write_folder(file: GgufFile, folder: Path, progress: ProgressCallback) -> None:
    data = gguf_config(file)
    config = ModelConfig.from_json(data, str(file.path))
    shapes = tensor_shapes(config)
    check_tensors(file, shapes)
    _write_json(folder / "config.json", data)
    special = {name: data[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        gguf_tokenizer_config(file.metadata, config.max_position_embeddings),
    )
    gguf_tokenizer(file.metadata).save(str(folder / "tokenizer.json"))
    pieces = bfloat16_pieces(file, shapes, config, progress)
    write_safetensors(folder / SINGLE_FILE, "BF16", shapes, pieces)


def _write_json(path: Path, data: dict[str, object]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _appearing(destination: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes `destination` if nothing fails and vanishes if so."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
