"""Packed weights in a file that processes share."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from safetensors.torch import load_file, save_file
from torch_driver import Driver
from weight_sharer import SIZE, Bytes, content, start_together

from tandem.artifacts import packed
from tandem.core.errors import ConfigError
from tandem.core.quantization import Quantization
from tandem.engine.torch import runners
from tandem.engine.torch.weight_file import HEADER_BYTES, shared_memory


def no_fill() -> Bytes:
    raise AssertionError("the file is there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model" / "float32-none-avx2-aaaa.weights"


def test_it_is_written_once_and_then_mapped(path: Path) -> None:
    assert np.array_equal(shared_memory(path, SIZE, content), content())
    again = shared_memory(path, SIZE, no_fill)
    assert np.array_equal(again, content())
    assert not again.flags.writeable
    # A kernel reads it by cache lines.
    assert again.ctypes.data % 64 == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 1000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: os.truncate(path, HEADER_BYTES + SIZE // 2),
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(b"\0" * (HEADER_BYTES + SIZE)),
    ],
    ids=["flipped", "half", "no header", "empty", "longer", "zeros"],
)
def test_a_damaged_file_is_written_anew(path: Path, damage: Callable[[Path], object]) -> None:
    shared_memory(path, SIZE, content)
    damage(path)
    assert np.array_equal(shared_memory(path, SIZE, content), content())
    assert np.array_equal(shared_memory(path, SIZE, no_fill), content())


def test_a_file_of_other_weights_is_written_anew(path: Path) -> None:
    shared_memory(path, SIZE, content)
    smaller = shared_memory(path, SIZE // 2, lambda: content()[: SIZE // 2])
    assert len(smaller) == SIZE // 2


def test_what_an_interrupted_writer_left_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir()
    path.with_suffix(".partial").write_bytes(b"half")
    assert np.array_equal(shared_memory(path, SIZE, content), content())
    assert not path.with_suffix(".partial").exists()


def test_a_writer_that_is_told_to_end_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_end(descriptor: int) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(os, "fsync", told_to_end)
    with pytest.raises(SystemExit):
        shared_memory(path, SIZE, content)
    assert [each.suffix for each in path.parent.iterdir()] == [".lock"]


def test_what_cannot_be_tidied_up_is_no_reason_not_to_share(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(packed, "remove_unused", denied)
    assert not shared_memory(path, SIZE, content).flags.writeable


def test_other_builds_of_the_same_kernels_go(path: Path) -> None:
    older = path.with_name("float32-none-avx2-0000.weights")
    others = [path.with_name(f"float32-{each}-0000.weights") for each in ("int4-avx2", "none-avx")]
    for each in (older, *others):
        shared_memory(each, SIZE, content)
    shared_memory(path, SIZE, content)
    assert sorted(path.parent.glob("*.weights")) == sorted((path, *others))


def test_a_file_that_is_mapped_counts_as_used(path: Path) -> None:
    shared_memory(path, SIZE, content)
    os.utime(path, (0, 0))
    shared_memory(path, SIZE, no_fill)
    assert path.stat().st_mtime > 0


def test_writing_one_makes_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_BYTES", 2 * (SIZE + HEADER_BYTES))
    other = path.parents[1] / "another" / path.name
    int4 = path.with_name("float32-int4-avx2-aaaa.weights")
    for number, each in enumerate((other, int4)):
        shared_memory(each, SIZE, content)
        os.utime(each, (number, number))
    mapped = shared_memory(other, SIZE, no_fill)
    shared_memory(path, SIZE, content)
    assert (other.exists(), int4.exists(), path.exists()) == (True, False, True)
    shared_memory(int4, SIZE, content)
    assert (other.exists(), path.exists()) == (False, True)
    assert np.array_equal(mapped, content())


def test_without_a_cache_the_weights_are_private(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    with structlog.testing.capture_logs() as logs:
        memory = shared_memory(tmp_path / "file" / "x.weights", SIZE, content)
    assert np.array_equal(memory, content())
    assert [each["event"] for each in logs] == ["weights are not shared"]


def test_on_a_full_disk_the_weights_are_private(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with structlog.testing.capture_logs() as logs:
        memory = shared_memory(path, SIZE, content)
    assert np.array_equal(memory, content())
    assert [each["reason"] for each in logs] == ["No space left on device"]
    assert [each.suffix for each in path.parent.iterdir()] == [".lock"]


def test_processes_that_start_together_share_one_file(path: Path, tmp_path: Path) -> None:
    forked = multiprocessing.get_context("forkserver")
    barrier = forked.Barrier(3)
    processes = [
        forked.Process(target=start_together, args=(path, seed, barrier, tmp_path))
        for seed in range(3)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
        assert each.exitcode == 0
    found = {(tmp_path / str(seed)).read_bytes() for seed in range(3)}
    assert len(found) == 1
    assert found <= {content(seed).tobytes() for seed in range(3)}
    # All of it, by a third.
    assert int((tmp_path / "pss").read_text()) == pytest.approx(SIZE / 1024 / 3, rel=0.1)


def test_weights_that_change_while_they_are_loaded_are_not_kept(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama_path, folder)
    real = runners.load_weights

    def replaced_meanwhile(*args: Any) -> Any:
        weights = load_file(folder / "model.safetensors")
        save_file({name: -each for name, each in weights.items()}, folder / "model.safetensors")
        return real(*args)

    monkeypatch.setattr(runners, "load_weights", replaced_meanwhile)
    with pytest.raises(ConfigError, match=r"model\.safetensors was changed while it was read"):
        Driver(folder, packed_dir=tmp_path / "packed")
    assert not list(tmp_path.glob("packed/*/*.weights"))


@pytest.mark.parametrize("quantization", Quantization)
def test_an_engine_with_shared_weights_has_the_same_bits(
    llama_path: Path, tmp_path: Path, quantization: Quantization
) -> None:
    logits = []
    for packed_dir in (None, tmp_path, tmp_path):
        driver = Driver(llama_path, quantization=quantization, packed_dir=packed_dir)
        row = driver.row(range(40))
        driver.step([(row, 40)])
        logits.append(row.logits[39])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    (written,) = tmp_path.glob("*/*.weights")
    assert f"float32-{quantization}" in written.name
    assert str(llama_path) in (written.parent / packed.ORIGIN).read_text()
