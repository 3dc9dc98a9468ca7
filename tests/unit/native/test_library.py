from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
import structlog
import torch

from tandem.artifacts.config import ModelConfig
from tandem.cli.up import slow_path
from tandem.core.errors import ConfigError
from tandem.engine.torch.probe import kernels
from tandem.engine.torch.runners import kernels_for
from tandem.native import library, structs
from tandem.native.library import (
    INSTRUCTIONS,
    TORCH,
    VARIABLE,
    Kernels,
    KernelsMissing,
    best,
    faster_than,
    load,
)

CPU = torch.device("cpu")
SIZES: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CONFIG = ModelConfig.from_json(SIZES)


def test_the_best_is_taken() -> None:
    names = [str(load(each)) for each in INSTRUCTIONS if not _is_missing(each)]
    assert str(best()) == names[-1]
    assert kernels() == (names[-1], "")


def _is_missing(instructions: str) -> bool:
    try:
        load(instructions)
    except KernelsMissing:
        return True
    return False


def test_all_builds_are_of_the_same_sources() -> None:
    assert len({load(each).build for each in INSTRUCTIONS if not _is_missing(each)}) == 1


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "plain")
    assert best().instructions == "plain"
    monkeypatch.setenv(VARIABLE, TORCH)
    with pytest.raises(KernelsMissing, match=VARIABLE):
        best()
    monkeypatch.setenv(VARIABLE, "sse9")
    with pytest.raises(ConfigError, match="avx512"):
        best()


def test_what_could_not_be_built_leaves_the_next_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (plain,) = library.FOLDER.glob("_kernels_plain*")
    shutil.copy(plain, tmp_path)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "_level", lambda: len(INSTRUCTIONS) - 1)
    with structlog.testing.capture_logs() as logs:
        assert best().instructions == "plain"
    # Who only asks is told nothing: a probe's answer is what it prints.
    assert not logs
    with structlog.testing.capture_logs() as logs:
        assert kernels_for(CONFIG, CPU) is best()
    assert [each["not_taken"] for each in logs] == [("avx2", "avx512", "amx")]
    assert slow_path(CONFIG) == f"computed by {best()}, slower than those of amx"
    monkeypatch.setenv(VARIABLE, "avx512")
    with pytest.raises(KernelsMissing, match="not built"):
        best()


def test_without_a_compiler_the_engine_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    with structlog.testing.capture_logs() as logs:
        assert kernels_for(CONFIG, CPU) is None
    (line,) = logs
    assert line["log_level"] == "warning"
    assert "pip install" in line["reason"]
    assert kernels() == ("", line["reason"])
    said = slow_path(CONFIG)
    assert said == f"computed by torch's own operations, several times slower: {line['reason']}"


def test_a_damaged_library_is_the_slow_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in library.FOLDER.glob("_kernels_*"):
        shutil.copy(path, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"not a library")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    with pytest.raises(KernelsMissing, match="cannot be loaded"):
        best()


def test_kernels_of_other_sources_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in library.FOLDER.iterdir():
        if path.suffix in (".so", ".h", ".cpp"):
            shutil.copy(path, tmp_path)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert best().instructions
    library._open.cache_clear()
    with (tmp_path / "model.h").open("a") as header:
        header.write("// As it was pulled.\n")
    with structlog.testing.capture_logs() as logs:
        assert kernels_for(CONFIG, CPU) is None
    (line,) = logs
    assert "other sources" in line["reason"]
    assert "pip install --force-reinstall" in line["reason"]


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_kernels_with_other_structs_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    if _is_missing(instructions):
        pytest.skip(f"NOT TESTED: {instructions}")
    path = library._path(instructions)
    kernels = Kernels(path, instructions)
    assert (kernels.max_head_dim, kernels.max_group) == (512, 336)

    class Longer(structs.Step):
        _fields_ = (("more", ctypes.c_int64),)

    for others in (
        (*structs.ALL[:-1], Longer),
        (*structs.ALL, structs.Team),
        structs.ALL[:-1],
    ):
        monkeypatch.setattr(structs, "ALL", others)
        with pytest.raises(KernelsMissing, match="other sources"):
            Kernels(path, instructions)


def test_a_library_without_the_functions_is_not_taken() -> None:
    with pytest.raises(KernelsMissing, match="other sources"):
        Kernels(Path(torch._C.__file__), "plain")


def test_what_the_kernels_do_not_take_is_torchs() -> None:
    with structlog.testing.capture_logs() as logs:
        assert kernels_for(CONFIG, CPU) is not None
        assert not logs
        assert bool(slow_path(CONFIG)) is bool(faster_than(best()))
        odd = ModelConfig.from_json(SIZES | {"intermediate_size": 127})
        assert kernels_for(odd, CPU) is None
    assert "sizes" in logs[0]["reason"]
