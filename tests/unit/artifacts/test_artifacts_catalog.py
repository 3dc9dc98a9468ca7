"""What the cache holds, and taking something out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_gguf

from tandem.artifacts.cache import cache_dir, packed_dir
from tandem.artifacts.catalog import BrokenModel, CachedModel, find_model, list_models, remove_model
from tandem.artifacts.packed import note_origin
from tandem.artifacts.resolve import pull_model, resolve
from tandem.core.errors import ConfigError, NotFound

pytestmark = pytest.mark.usefixtures("cache")


def test_an_empty_cache_lists_nothing() -> None:
    assert list_models() == []
    assert find_model("x") is None
    with pytest.raises(NotFound, match="no model 'x' in the cache"):
        remove_model("x")


def test_a_folder_is_copied_and_listed(make_folder: Callable[..., Path]) -> None:
    original = make_folder()
    (original / "notes.txt").write_text("not part of the model")
    folder = pull_model(str(original))
    assert folder.path.is_relative_to(cache_dir())
    assert folder.fingerprint == resolve(str(original)).fingerprint
    (model,) = list_models()
    assert model == CachedModel(
        name="tiny-llama",
        path=folder.path,
        source=str(original),
        revision=None,
        architecture="LlamaForCausalLM",
        num_parameters=10,
        num_layers=2,
        max_model_len=128,
        size=sum(file.stat().st_size for file in folder.path.iterdir()),
    )
    assert not (folder.path / "notes.txt").exists()
    assert pull_model(str(original)) == folder, "copied once"
    assert pull_model(str(folder.path)) == folder, "in the cache already"


def test_what_is_listed_can_be_used_by_its_name(make_folder: Callable[..., Path]) -> None:
    folder = pull_model(str(make_folder()))
    assert resolve("tiny-llama") == folder


def test_an_imported_gguf_file_is_listed(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "Tiny.gguf")
    resolve(str(path))
    (model,) = list_models()
    assert (model.name, model.size > 10_000) == ("tiny", True)
    assert isinstance(model, CachedModel)
    assert model.source == str(path)


def test_removed_is_gone(make_folder: Callable[..., Path], cache: Path) -> None:
    first, second = (pull_model(str(make_folder(name))) for name in ("First", "Second"))
    assert remove_model("first") == first.path
    assert [model.name for model in list_models()] == ["second"]
    assert remove_model(str(second.path)) == second.path
    assert list_models() == []
    assert [path for path in cache.rglob("*") if path.is_file()] == [cache / ".lock"]


def test_of_two_with_one_name_the_path_decides(make_folder: Callable[..., Path]) -> None:
    original = make_folder()
    first = pull_model(str(original))
    (original / "config.json").write_bytes((original / "config.json").read_bytes() + b"\n")
    second = pull_model(str(original))
    assert first.path != second.path
    for ask in (resolve, remove_model):
        with pytest.raises(ConfigError, match="several models are called 'tiny-llama'"):
            ask("tiny-llama")
    remove_model(str(first.path))
    assert resolve("tiny-llama") == second


@pytest.mark.parametrize("name", ["config.json", "tandem.json", "model.safetensors"])
def test_a_damaged_model_is_listed_as_such(make_folder: Callable[..., Path], name: str) -> None:
    folder = pull_model(str(make_folder()))
    (folder.path / name).write_text("{")
    (model,) = list_models()
    assert isinstance(model, BrokenModel)
    assert (model.name, name in model.problem) == ("tiny-llama", True)
    remove_model("tiny-llama")
    assert list_models() == []


def test_packed_weights_go_with_their_model(make_folder: Callable[..., Path]) -> None:
    folder = pull_model(str(make_folder()))
    packed, other = packed_dir() / folder.fingerprint, packed_dir() / "another"
    for each in (packed, other):
        each.mkdir(parents=True)
        (each / "float32-none-avx2-0000.weights").write_bytes(b"weights")
    note_origin(packed, folder)
    remove_model("tiny-llama")
    assert not packed.exists()
    assert other.exists()
