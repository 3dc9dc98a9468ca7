from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.weight_counts import WeightCounts
from tandem.core.errors import ConfigError
from tandem.core.quantization import Quantization
from tandem.engine.torch.packed_weights import Arena, KernelPacker
from tandem.models.weights import PlainPacker, load_weights, repack_weights
from tandem.native.library import best
from tandem.worker import engines
from tandem.worker.settings import WorkerSettings

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


def test_a_tied_head_that_differs_is_not_missed(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"][7, 3] += 1
    with pytest.raises(ConfigError, match=r"'lm_head\.weight' differs .* tie_word_embeddings"):
        load(config, tensors, tmp_path)
    load(replace(config, tie_word_embeddings=False), tensors, tmp_path)


def test_a_tied_head_may_have_more_bits_than_the_embedding(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    embedding = tensors["model.embed_tokens.weight"].float() + 2**-20
    tensors["model.embed_tokens.weight"] = embedding.bfloat16()
    tensors["lm_head.weight"] = embedding
    load(config, tensors, tmp_path)


def test_a_tied_head_is_a_tensor_as_all_are(
    config: ModelConfig, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors["lm_head.weight"] = torch.zeros(2, 2)
    with pytest.raises(ConfigError, match=r"'lm_head\.weight' has shape"):
        load(config, tensors, tmp_path)


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


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("quantization", Quantization)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_weights_are_as_large_as_was_said_before(
    config: ModelConfig, dtype: str, quantization: Quantization, is_tied: bool
) -> None:
    """Of a model of usual sizes; what is not counted are norms."""
    config = replace(
        config,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=3,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        vocab_size=4096,
        tie_word_embeddings=is_tied,
    )
    arena = Arena()
    repack_weights(config, getattr(torch, dtype), KernelPacker(best(), quantization, arena))
    said = WeightCounts.of(config).num_bytes(dtype, quantization)
    assert arena.size * 0.998 < said <= arena.size


def test_more_blocks_than_memory_holds_are_refused(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    settings = WorkerSettings(port=1, num_blocks=10**12)
    with pytest.raises(ConfigError, match="cpu has too little free memory") as caught:
        engines.build_engine(settings, ModelFolder.open(llama_path))
    assert caught.value.param == "num_blocks"


@pytest.mark.parametrize("num_blocks", [None, 16])
def test_a_config_of_another_model_is_told_before_there_is_memory_for_it(
    llama_path: Path, num_blocks: int | None, tmp_path: Path
) -> None:
    for file in llama_path.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 2**30}))
    settings = WorkerSettings(port=1, num_blocks=num_blocks)
    with pytest.raises(ConfigError, match=r"has shape \[331, 72\], but the model's config asks"):
        engines.build_engine(settings, ModelFolder.open(tmp_path))


@pytest.mark.parametrize("quantization", [Quantization.NONE, Quantization.INT4])
def test_a_workers_pool_is_what_its_part_of_the_weights_leaves(
    llama_path: Path, quantization: Quantization, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    monkeypatch.setattr(engines, "memory_bytes", lambda: 4_000_000)
    folder = ModelFolder.open(llama_path)
    # 331 x 72 embeddings; in each of 3 layers 72 x (2 x 144 + 2 x 48 + 3 x 172) more.
    assert WeightCounts.of(folder.config) == WeightCounts(embedding=23_832, projections=194_400)
    weight_bytes = WeightCounts.of(folder.config).num_bytes("float32", quantization)
    for num_sharers in (1, 2):
        settings = WorkerSettings(
            port=1,
            dtype="float32",
            quantization=quantization,
            memory_share=0.5,
            weight_sharers=num_sharers,
        )
        layout = folder.config.kv_layout(16, "float32")
        expected = (2_000_000 - weight_bytes // num_sharers) // layout.block_bytes
        assert engines.build_engine(settings, folder).pool.num_blocks == expected
