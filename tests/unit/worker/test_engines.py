"""What a worker's settings make of its engine."""

from typing import Any

import pytest
import torch

from tandem.artifacts.resolve import resolve
from tandem.core.errors import ConfigError
from tandem.core.quantization import Quantization
from tandem.worker.engines import build_engine
from tandem.worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("device", "name", "value", "why"),
    [
        # Too small for the weights.
        ("mock:l4", "memory_share", 0.5, "50% of the memory of mock:l4"),
        ("mock:l4", "num_blocks", 10**12, "mock:l4 has too little free memory"),
        ("mock:l4", "quantization", Quantization.INT4, "mock devices"),
        ("mock:l4", "kv_cache_dtype", "int8", "a type of its own"),
        ("cuda:0", "quantization", Quantization.INT8, "int8 weights need the native kernels"),
    ],
)
def test_what_a_device_cannot_do_is_refused(device: str, name: str, value: Any, why: str) -> None:
    settings = WorkerSettings(port=1, device=device, **{name: value})
    with pytest.raises(ConfigError, match=why) as caught:
        build_engine(settings, resolve("mock"))
    assert caught.value.param == name


@pytest.mark.parametrize("too_much", ["the model", "a step"])
def test_what_a_gpu_has_too_little_memory_for_is_refused(
    too_much: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            self._take("the model")

        def warm_up(self) -> None:
            self._take("a step")

        def _take(self, what: str) -> None:
            if what == too_much:
                raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tandem.engine.torch.engine.TorchEngine", Full)
    monkeypatch.setattr(
        "tandem.engine.torch.placement.torch_device", lambda _: torch.device("cuda")
    )
    settings = WorkerSettings(port=1, device="cuda:0", num_blocks=10**9, dtype="float32")
    with pytest.raises(ConfigError, match="cuda:0 has too little free memory") as caught:
        build_engine(settings, resolve("mock"))
    assert caught.value.param == "num_blocks"
