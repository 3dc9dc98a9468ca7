"""The GPU's runner: on a GPU, or else by Triton's interpreter and without graphs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch_driver import Driver, Row, save_random_model
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from tandem.artifacts.model_folder import ModelFolder
from tandem.core.kv import KVLayout
from tandem.core.plan import SequenceSlice, StepPlan
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import PlainPacker, load_weights

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's runner is untested")

from tandem.engine.torch import decode_graph, triton_attention
from tandem.engine.torch.gpu_decoder import GpuDecoder
from tandem.engine.torch.gpu_runner import GpuRunner
from tandem.engine.torch.kv_pool import TorchKVPool

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MAX_MODEL_LEN = 1024
SIZES = {"vocab_size": 307, "num_hidden_layers": 2, "max_position_embeddings": MAX_MODEL_LEN}
CONFIGS: dict[str, PretrainedConfig] = {
    "groups of 3": LlamaConfig(
        **SIZES,
        hidden_size=72,
        intermediate_size=172,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=24,
        tie_word_embeddings=True,
    ),
    "windows": MistralConfig(
        **SIZES,
        hidden_size=64,
        intermediate_size=144,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=24,
    ),
    "norms of q and k": Qwen3Config(
        **SIZES,
        hidden_size=64,
        intermediate_size=144,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
    ),
}


@pytest.fixture(params=CONFIGS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_random_model(CONFIGS[request.param], tmp_path)
    return tmp_path


def on_gpu(driver: Driver, path: Path) -> Driver:
    """The same engine with the GPU's runner, over the same pool."""
    engine = driver.engine
    folder = ModelFolder.open(path)
    weights = load_weights(folder.config, folder.weight_files, torch.float32, DEVICE, PlainPacker())
    rotary = RotaryEmbedding(folder.config, MAX_MODEL_LEN, DEVICE)
    decoder = GpuDecoder(folder.config, weights, rotary, engine.pool)
    engine._runner = GpuRunner(folder.config, decoder, engine.pool, DEVICE, MAX_MODEL_LEN)
    return driver


def steps(driver: Driver, rows: list[Row]) -> None:
    """Prompts in chunks and together, then single tokens of batches that grow, shrink and change
    their order."""
    choose = random.Random(1)
    driver.step([(row, min(100, len(row.tokens))) for row in rows])
    rest = [(row, len(row.tokens) - row.num_computed) for row in rows]
    driver.step([(row, count) for row, count in rest if count])
    for _ in range(10):
        chosen = choose.sample(rows, choose.randint(1, len(rows)))
        for row in chosen:
            row.tokens.append(choose.randrange(300))
        driver.step([(row, 1) for row in chosen])


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the other engine's pool is in host memory")
def test_logits_and_kv_are_those_of_the_other_runners(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_graph, "BATCH_SIZES", (1, 2, 4, 8))
    # The interpreter runs one program after the other.
    monkeypatch.setattr(triton_attention, "SPLIT_PROGRAMS", 8)
    draw = random.Random(0)
    prompts = [[draw.randrange(300) for _ in range(length)] for length in (1, 5, 40, 130)]
    drivers = Driver(path, seed=1), on_gpu(Driver(path, seed=2), path)
    computed = []
    for driver in drivers:
        rows = [driver.row(prompt) for prompt in prompts]
        steps(driver, rows)
        computed.append(rows)
    for expected, row in zip(*computed, strict=True):
        assert expected.logits.keys() == row.logits.keys()
        for position, logits in row.logits.items():
            torch.testing.assert_close(logits, expected.logits[position], rtol=1e-4, atol=1e-4)
        for one, other in zip(drivers[0].kv(expected), drivers[1].kv(row), strict=True):
            torch.testing.assert_close(
                torch.frombuffer(bytearray(other), dtype=torch.float32),
                torch.frombuffer(bytearray(one), dtype=torch.float32),
                rtol=1e-4,
                atol=1e-4,
            )


def test_a_sequence_that_is_back_in_other_blocks_has_another_table() -> None:
    """The rows of one size are not told of the steps in between, which other sizes took."""
    pool = TorchKVPool(KVLayout(1, 1, 4, 4, "float32"), 60, torch.device("cpu"))
    rows = decode_graph.HostRows(8, pool, max_model_len=64, pinned=False)

    def step(table_id: int, *blocks: int) -> list[int]:
        each = SequenceSlice(7, (1,), 5, blocks, None, table_id=table_id)
        rows.fill(StepPlan(1, (each,)))
        return rows._tables.rows[0, :2].tolist()

    assert step(1, 4, 14) == [4, 14]
    assert step(2, 50, 51) == [50, 51]
