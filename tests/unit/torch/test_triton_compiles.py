"""What a GPU's steps launch, compiled for GPUs that are not here: nothing spills, and all fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's kernels are not compiled")

SCRIPT = Path(__file__).with_name("compile_for_gpu.py")
# Each with its number of processors and the KiB of memory in one that a program can have.
GPUS = {"A100": (80, 108, 163), "RTX 4090": (89, 128, 99), "H200": (90, 132, 227)}
KERNELS = {
    "embed",
    "add_rms_norm",
    "rotate_and_store",
    "attend_prompt",
    "attend_split",
    "merge_splits",
    "attend_tokens",
    "silu_and_mul",
    "multiply_few_rows",
    "draw",
    "choose",
    "add_noise",
    "draw_kept",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("gpu", GPUS)
def test_all_kernels_compile_and_nothing_spills(gpu: str, tmp_path: Path) -> None:
    numbers = map(str, GPUS[gpu])
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *numbers],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    assert {each["kernel"] for each in kernels} == KERNELS
    assert [each for each in kernels if each["spilled"]] == []
