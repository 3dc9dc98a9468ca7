"""Whether a worker's settings fit its device and its model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from tandem.artifacts.pull import DEFAULT_CONFIG
from tandem.engine.torch.inputs import KEY_TILE
from tandem.native.library import TORCH, VARIABLE, KernelsMissing, best
from tandem.worker.fit import misfits, takes_kernels
from tandem.worker.settings import WorkerSettings


def worker(**options: Any) -> WorkerSettings:
    return WorkerSettings(port=1, **options)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mock:l4"])
def test_the_defaults_fit(device: str) -> None:
    assert list(misfits(worker(device=device), DEFAULT_CONFIG, has_kernels=False)) == []


@pytest.mark.parametrize("is_known", [True, False])
def test_what_only_the_kernels_take(is_known: bool) -> None:
    settings = worker(quantization="int4", kv_cache_dtype="int8")
    config = DEFAULT_CONFIG if is_known else None
    assert list(misfits(settings, config, has_kernels=True)) == []
    found = [each.param for each in misfits(settings, config, has_kernels=False)]
    assert found == ["quantization", "kv_cache_dtype"]


def test_more_positions_than_the_model_has() -> None:
    for length, params in ((8192, []), (8193, ["max_model_len"])):
        settings = worker(max_model_len=length)
        found = misfits(settings, DEFAULT_CONFIG, has_kernels=True)
        assert [each.param for each in found] == params
        assert list(misfits(settings, None, has_kernels=True)) == []


def test_a_mock_device_computes_nothing() -> None:
    settings = worker(
        device="mock:l4", quantization="int8", kv_cache_dtype="int8", max_model_len=10**6
    )
    found = [each.param for each in misfits(settings, DEFAULT_CONFIG, has_kernels=False)]
    assert found == ["quantization", "kv_cache_dtype"]


def test_kernels_are_for_cpus_and_for_models_of_their_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        kernels = best()
    except KernelsMissing as missing:
        pytest.skip(f"NOT TESTED: {missing}")
    assert takes_kernels(worker(), DEFAULT_CONFIG)
    assert takes_kernels(worker(), None)
    too_large = replace(DEFAULT_CONFIG, head_dim=kernels.max_head_dim + 2)
    assert not takes_kernels(worker(), too_large)
    for device in ("cuda:0", "mock:l4"):
        assert not takes_kernels(worker(device=device), DEFAULT_CONFIG)
    monkeypatch.setenv(VARIABLE, TORCH)
    assert not takes_kernels(worker(), DEFAULT_CONFIG)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256, 512])
def test_all_block_sizes_that_are_taken_suit_the_engine(block_size: int) -> None:
    assert KEY_TILE % worker(block_size=block_size).block_size == 0


@pytest.mark.parametrize("block_size", [0, 8, 48, 528, 1024])
def test_other_block_sizes_are_refused(block_size: int) -> None:
    with pytest.raises(ValidationError, match="block_size"):
        worker(block_size=block_size)
