from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.errors import ConfigError
from tandem.models.weights import PlainPacker, load_weights

CPU = torch.device("cpu")
HUGE_HEADER = (2**60).to_bytes(8, "little") + b"{}"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def config(llama_path: Path) -> ModelConfig:
    return ModelFolder.open(llama_path).config


@pytest.fixture
def tensors(llama_path: Path) -> dict[str, torch.Tensor]:
    return load_file(llama_path / "model.safetensors")


def load(config: ModelConfig, tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path / "x.safetensors")
    load_weights(config, [path / "x.safetensors"], torch.float32, CPU, PlainPacker())


def test_loads_from_several_files_in_another_dtype(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    names = sorted(tensors)
    files = []
    for part in range(3):
        files.append(tmp_path / f"{part}.safetensors")
        save_file({name: tensors[name] for name in names[part::3]}, files[-1])
    weights = load_weights(config, files, torch.bfloat16, CPU, PlainPacker())
    layer = weights.layers[1]
    assert torch.equal(layer.down.weight, tensors[DOWN].bfloat16())
    assert torch.equal(
        layer.qkv.weight[-48:], tensors["model.layers.1.self_attn.v_proj.weight"].bfloat16()
    )
    assert weights.lm_head is weights.embedding


def test_missing_tensor(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del tensors[DOWN]
    with pytest.raises(ConfigError, match=f"lack '{DOWN}'"):
        load(config, tensors, tmp_path)


def test_wrong_shape(config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    tensors[DOWN] = tensors[DOWN].T.contiguous()
    with pytest.raises(ConfigError, match=rf"{DOWN}.*\[172, 72\].*\[72, 172\]"):
        load(config, tensors, tmp_path)


def test_integer_weights(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors[DOWN] = tensors[DOWN].to(torch.int8)
    with pytest.raises(ConfigError, match=f"{DOWN}.*I8"):
        load(config, tensors, tmp_path)


def test_unknown_tensor(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors["model.layers.0.mlp.router.weight"] = torch.zeros(1)
    with pytest.raises(ConfigError, match=r"mlp\.router\.weight"):
        load(config, tensors, tmp_path)


def test_tables_and_tied_heads_are_not_missed(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(1)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    load(config, tensors, tmp_path)
    with pytest.raises(ConfigError, match=r"lack 'lm_head\.weight'"):
        del tensors["lm_head.weight"]
        load(replace(config, tie_word_embeddings=False), tensors, tmp_path)


def test_tensor_in_two_files(config: ModelConfig, llama_path: Path, tmp_path: Path) -> None:
    path = llama_path / "model.safetensors"
    with pytest.raises(ConfigError, match="both in"):
        load_weights(config, [path, path], torch.float32, CPU, PlainPacker())


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", HUGE_HEADER])
def test_broken_file(config: ModelConfig, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.safetensors"):
        load_weights(config, [path], torch.float32, CPU, PlainPacker())
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        load_weights(config, [tmp_path / "gone.safetensors"], torch.float32, CPU, PlainPacker())
