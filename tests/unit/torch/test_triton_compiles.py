"""What a GPU's steps and copies launch, compiled for GPUs that are not here: nothing spills, all
fits, and what is to come beside other things is not waited for before them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
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
    "copy_blocks",
}
# Lets the kernel behind begin.
LAUNCH = "PREEXIT"
# Where what was loaded goes on, and so has come.
USES = {"STS", "SHFL", "BAR"}
# Of the matrix units.
PRODUCTS = {"HMMA", "HGMMA"}
# Counts which splits have ended.
COUNTS = {"ATOM", "ATOMG"}


# Of the other, where the least fits, and where the most is asked of the kernels: a minute each.
@pytest.mark.parametrize(
    ("gpu", "model"),
    [*((gpu, "llama-1b") for gpu in GPUS), ("RTX 4090", "odd"), ("H200", "odd")],
)
def test_all_kernels_compile_nothing_spills_and_nothing_waits_too_soon(
    gpu: str, model: str, tmp_path: Path
) -> None:
    numbers = map(str, GPUS[gpu])
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [sys.executable, str(SCRIPT), model, *numbers],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    assert {each["kernel"] for each in kernels} == KERNELS
    assert [each for each in kernels if each["spilled"]] == []
    chained = [each for each in kernels if LAUNCH in each["instructions"]]
    assert bool(chained) == (gpu == "H200")
    for each in chained:
        assert_begins_at_once(each["instructions"])
        if each["kernel"] == "multiply_few_rows":
            assert_weights_come_first(each["instructions"])


def assert_begins_at_once(instructions: Sequence[str]) -> None:
    """Until the kernel behind may begin, nothing is waited for that was loaded."""
    assert not USES & set(instructions[: instructions.index(LAUNCH)])


def assert_weights_come_first(instructions: Sequence[str]) -> None:
    """What a product takes besides `x` and its weights is loaded before these are multiplied, and
    not waited for before that."""
    products = [at for at, name in enumerate(instructions) if name in PRODUCTS]
    assert "SHFL" not in instructions[: products[0]]
    behind = instructions[products[-1] :]
    ends = next((at for at, name in enumerate(behind) if name in COUNTS), len(behind))
    assert "LDG" not in behind[:ends]
