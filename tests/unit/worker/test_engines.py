"""What a worker's settings make of its engine."""

import pytest

from tandem.artifacts.resolve import resolve
from tandem.core.errors import ConfigError
from tandem.core.quantization import Quantization
from tandem.worker.engines import build_engine
from tandem.worker.settings import WorkerSettings


def test_a_share_of_a_mock_gpu_too_small_for_the_weights_is_refused() -> None:
    settings = WorkerSettings(port=1, device="mock:l4", memory_share=0.5)
    with pytest.raises(ConfigError, match="50% of the memory of mock:l4") as caught:
        build_engine(settings, resolve("mock"))
    assert caught.value.param == "memory_share"


def test_mock_devices_have_no_weights_to_quantise() -> None:
    settings = WorkerSettings(port=1, device="mock:l4", quantization=Quantization.INT4)
    with pytest.raises(ConfigError, match="mock devices") as caught:
        build_engine(settings, resolve("mock"))
    assert caught.value.param == "quantization"


def test_a_mock_device_has_no_kv_in_int8() -> None:
    settings = WorkerSettings(port=1, device="mock:l4", kv_cache_dtype="int8")
    with pytest.raises(ConfigError) as caught:
        build_engine(settings, resolve("mock"))
    assert caught.value.param == "kv_cache_dtype"


def test_a_gpu_is_not_asked_for_what_only_the_kernels_take() -> None:
    settings = WorkerSettings(port=1, device="cuda:0", quantization=Quantization.INT8)
    with pytest.raises(ConfigError, match="int8 weights need the native kernels") as caught:
        build_engine(settings, resolve("mock"))
    assert caught.value.param == "quantization"
