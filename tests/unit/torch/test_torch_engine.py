from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kv_items import read_kv
from torch_driver import GREEDY, Driver

from tandem.artifacts.model_folder import ModelFolder
from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.errors import ConfigError, InvalidRequest, Mismatch, TandemError
from tandem.core.kv import Plane
from tandem.core.plan import SequenceSlice, StepPlan, StepResult
from tandem.core.quantization import Quantization
from tandem.engine.protocols import Engine, KVPool
from tandem.engine.torch.engine import TorchEngine
from tandem.engine.torch.runners import kernels_for


def make_engine(
    path: Path, device: CpuDevice | CudaDevice | None = None, **changes: Any
) -> TorchEngine:
    options = {"dtype": "float32", "block_size": 16, "num_blocks": 8, "max_model_len": 64}
    return TorchEngine(ModelFolder.open(path), device or CpuDevice(), **options | changes)


def a_slice(**changes: Any) -> SequenceSlice:
    fields = {
        "sequence_id": 9,
        "token_ids": [1, 2, 3],
        "start": 0,
        "block_table": [5],
        "sample": GREEDY,
    }
    return SequenceSlice(**fields | changes)


def test_fits_the_seam(llama_path: Path) -> None:
    engine = make_engine(llama_path)
    seam: Engine = engine
    pool: KVPool = engine.pool
    assert seam.model.fingerprint == ModelFolder.open(llama_path).fingerprint
    assert seam.model.numerics.endswith("float32")
    assert pool.layout.block_bytes == 3 * 2 * 24 * 16 * 4 * 2
    engine.close()


def test_quantised_weights_are_told_apart(llama_path: Path) -> None:
    if kernels_for(ModelFolder.open(llama_path).config, torch.device("cpu")) is None:
        pytest.skip("NOT TESTED: there are no kernels here")
    model = make_engine(llama_path, quantization=Quantization.INT4).model
    assert model.quantization == "int4"
    assert model.numerics.endswith("float32 int4")
    assert model.kv_fingerprint != model.fingerprint


def test_the_hook_finds_the_layers_kv_in_the_pool(llama_path: Path) -> None:
    engine = make_engine(llama_path)
    seen: list[bytes] = []

    def on_layer(layer: int) -> None:
        assert layer == len(seen)
        seen.append(bytes(read_kv(engine.pool, Plane.VALUE, range(layer, layer + 1), [5], 3)))

    engine.launch(StepPlan(0, (a_slice(),)), on_layer)
    assert seen == [
        bytes(read_kv(engine.pool, Plane.VALUE, range(layer, layer + 1), [5], 3))
        for layer in range(3)
    ]
    assert all(any(each) for each in seen)


def test_tokens_answer_their_slices(llama_path: Path) -> None:
    engine = make_engine(llama_path)
    silent = a_slice(sample=None)
    (alone,) = engine.launch(StepPlan(0, (a_slice(),))).result().tokens
    others = (
        a_slice(sequence_id=10, block_table=[2]),
        a_slice(sequence_id=11, sample=None, block_table=[3]),
    )
    plan = StepPlan(1, (silent, *others))
    assert engine.launch(plan).result() == StepResult((None, alone, None))
    assert engine.launch(StepPlan(2, (silent,))).result() == StepResult((None,))
    assert engine.launch(StepPlan(3, ())).result() == StepResult(())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"token_ids": [1, 331]}, InvalidRequest),
        ({"token_ids": [-1]}, InvalidRequest),
        ({"token_ids": []}, Mismatch),
        ({"start": -1}, Mismatch),
        ({"start": 62, "block_table": [0, 1, 2, 3, 4]}, Mismatch),
        ({"start": 14}, Mismatch),
        ({"block_table": []}, Mismatch),
        ({"block_table": [8]}, Mismatch),
        ({"block_table": [-1]}, Mismatch),
    ],
)
def test_a_wrong_plan_is_refused_and_harmless(
    llama_path: Path, changes: dict[str, Any], error: type[TandemError]
) -> None:
    engine = make_engine(llama_path)
    with pytest.raises(error, match="sequence 9"):
        engine.launch(StepPlan(0, (a_slice(sequence_id=1), a_slice(**changes))))
    assert not any(read_kv(engine.pool, Plane.KEY, range(3), range(8), 128))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"dtype": "int8"}, "dtype"),
        ({"device": CudaDevice(99)}, "device"),
    ],
)
def test_wrong_options_are_named(llama_path: Path, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_engine(llama_path, **changes)
    assert caught.value.param == param


def test_bfloat16_stays_close(llama_path: Path) -> None:
    drivers = [Driver(llama_path, dtype=dtype) for dtype in ("float32", "bfloat16")]
    rows = [driver.row(range(300)) for driver in drivers]
    for driver, row in zip(drivers, rows, strict=True):
        driver.step([(row, 256)])
        driver.step([(row, 44)])
    exact, rounded = (row.logits[299] for row in rows)
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.99
