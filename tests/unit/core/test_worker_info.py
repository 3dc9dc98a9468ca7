"""Which workers can exchange KV."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.core.kv import KVLayout
from tandem.core.quantization import Quantization
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole

MODEL = ModelInfo("tiny", "f" * 32, 256, 2048, frozenset(), "kernels")
LAYOUT = KVLayout(num_layers=2, num_kv_heads=1, head_dim=8, block_size=16, dtype="bfloat16")
PREFILL = WorkerInfo("prefill-0", WorkerRole.PREFILL, 1, MODEL, LAYOUT, 8, 4, "cpu")
DECODE = replace(PREFILL, worker_id="decode-0", role=WorkerRole.DECODE)


def test_workers_with_other_numerics_fit() -> None:
    assert PREFILL.misfit(replace(DECODE, model=replace(MODEL, numerics="torch"))) is None


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (replace(DECODE, model=replace(MODEL, fingerprint="0" * 32)), "model"),
        (replace(DECODE, model=replace(MODEL, quantization=Quantization.INT4)), "model"),
        (replace(DECODE, layout=replace(LAYOUT, dtype="float32")), "KV layout"),
    ],
)
def test_a_misfit_is_named(changed: WorkerInfo, what: str) -> None:
    misfit = PREFILL.misfit(changed)
    assert misfit is not None
    assert f"prefill-0 and decode-0 differ in {what}" in misfit


def test_a_transfer_between_quantisations_does_not_fit_either() -> None:
    models = [replace(MODEL, quantization=each) for each in Quantization]
    assert len({each.kv_fingerprint for each in models}) == len(models)
    assert MODEL.kv_fingerprint == MODEL.fingerprint
