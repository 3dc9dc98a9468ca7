"""Packed weights in the cache: whose they are, and which of them go when there are many."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.artifacts.cache import packed_dir
from tandem.artifacts.catalog import remove_model
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.packed import ORIGIN, PackedModel, list_packed, note_origin, remove_unused
from tandem.core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("cache")


def pack(model: str, form: str, size: int, used_at: float = 0.0, suffix: str = ".weights") -> Path:
    path = packed_dir() / model / f"{form}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"w" * size)
    os.utime(path, (used_at, used_at))
    return path


def left() -> set[str]:
    return {f"{path.parent.name}/{path.stem}" for path in packed_dir().glob("*/*.weights")}


def test_what_was_not_used_for_longest_goes() -> None:
    pack("a", "one", 100, used_at=3)
    pack("a", "two", 100, used_at=1)
    pack("b", "one", 100, used_at=2)
    kept = pack("c", "one", 100, used_at=4)
    remove_unused(packed_dir(), kept, max_bytes=400)
    assert left() == {"a/one", "a/two", "b/one", "c/one"}
    remove_unused(packed_dir(), kept, max_bytes=399)
    assert left() == {"a/one", "b/one", "c/one"}
    remove_unused(packed_dir(), kept, max_bytes=150)
    assert left() == {"c/one"}


def test_what_is_kept_stays_even_if_it_is_too_much_and_old() -> None:
    kept = pack("a", "one", 100, used_at=0)
    pack("b", "one", 100, used_at=9)
    remove_unused(packed_dir(), kept, max_bytes=10)
    assert left() == {"a/one"}


def test_a_process_goes_on_with_what_it_has_mapped() -> None:
    path = pack("a", "one", 100)
    with path.open("rb") as mapped:
        remove_unused(packed_dir(), pack("b", "one", 100, used_at=1), max_bytes=100)
        assert not path.exists()
        assert mapped.read() == b"w" * 100


def test_they_are_listed_by_their_models(make_folder: Callable[..., Path]) -> None:
    model = ModelFolder.open(make_folder("Mine"))
    assert list_packed() == []
    for form in ("one", "two"):
        path = pack(model.fingerprint, form, 100)
        note_origin(path.parent, model)
    old = pack("of an older version", "one", 10)
    (packed_dir() / "empty").mkdir()
    assert list_packed() == [
        PackedModel("mine", model.path, path.parent, 200),
        PackedModel("of an older version", old.parent, old.parent, 10),
    ]


def test_a_model_that_moves_is_noted_anew(make_folder: Callable[..., Path]) -> None:
    for name in ("First", "Second"):
        model = ModelFolder.open(make_folder(name))
        note_origin(pack("x", "one", 1).parent, model)
        assert [each.path for each in list_packed()] == [model.path]


def test_a_note_that_cannot_be_written_is_no_failure(make_folder: Callable[..., Path]) -> None:
    model = ModelFolder.open(make_folder())
    note_origin(packed_dir() / "not there", model)
    folder = pack("x", "one", 1).parent
    (folder / ORIGIN).mkdir()
    note_origin(folder, model)
    assert [each.name for each in list_packed()] == ["x"]


def test_of_a_model_elsewhere_the_packed_weights_alone_are_removed(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    models = [ModelFolder.open(make_folder(f"{name}/Mine")) for name in ("a", "b")]
    for model in models:
        note_origin(pack(model.path.parent.name, "one", 1).parent, model)
    with pytest.raises(ConfigError, match="several models are called 'mine'"):
        remove_model("mine")
    assert remove_model(str(models[0].path)) == packed_dir() / "a"
    assert remove_model("mine") == packed_dir() / "b"
    assert list_packed() == []
    assert all(model.path.exists() for model in models)


def test_what_a_killed_writer_left_counts_and_goes() -> None:
    left = pack("a", "bf16", 60, used_at=1.0, suffix=".partial")
    whole = pack("a", "f32", 60, used_at=2.0)
    assert [each.size for each in list_packed()] == [120]
    remove_unused(packed_dir(), whole, 100)
    assert (left.exists(), whole.exists()) == (False, True)


def test_what_is_being_written_stays() -> None:
    writing = pack("a", "bf16", 60, used_at=time.time(), suffix=".partial")
    older = pack("b", "f32", 60, used_at=1.0)
    remove_unused(packed_dir(), writing.with_suffix(".weights"), 10)
    assert (writing.exists(), older.exists()) == (True, False)
