"""`tandem bench goodput` from its command line to its tables, on mock GPUs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tandem.bench.objectives import GRID, cell_name
from tandem.bench.records import Sweep

ARMS = "1p1d,colocated:2+batching=chunked"


async def bench(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tandem.cli", "bench", "goodput", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.slow
async def test_a_sweep_from_end_to_end(tmp_path: Path) -> None:
    returncode, said = await bench(
        *("--device", "mock:h100x4", "--devices", "2", "--arms", ARMS, "--workloads", "chat"),
        *("--seconds", "0.3", "--warm-up", "0.1", "--length-scale", "0.05", "--alone", "1"),
        *("--rates-per-start", "9", "--tolerance", "4", "--out", str(tmp_path)),
        *("--", "--num-blocks", "4096"),
    )
    assert returncode == 0, said
    sweep = Sweep.read(tmp_path / "goodput.jsonl")
    assert [each.arm for each in sweep.uncontended] == ARMS.split(",")
    # The objectives stand before the first rate.
    kinds = [type(each).__name__ for each in sweep.records]
    assert kinds.index("Base") < kinds.index("RateRun")
    assert sweep.arms("chat") == ARMS.split(",")
    assert any(run.num_requests for run in sweep.runs)
    assert len({run.rate for run in sweep.runs}) > 1
    text = (tmp_path / "goodput.md").read_text()
    assert text in said
    assert all(f"({ttft:g}, {tpot:g})" in text for ttft, tpot in GRID)
    assert (tmp_path / "logs" / "1p1d" / "gateway.log").stat().st_size


async def test_a_folder_that_cannot_be_made_is_told_in_words() -> None:
    returncode, said = await bench("--out", "/proc/tandem-goodput")
    assert returncode == 1
    assert said.startswith("error: cannot write /proc/tandem-goodput")
    assert "Traceback" not in said


async def simulated(out: Path, *arguments: str) -> tuple[int | None, str]:
    return await bench(
        *("--simulated", "--device", "mock:h100", "--devices", "2", "--workloads", "chat"),
        *("--seconds", "0.05", "--warm-up", "0.02", "--length-scale", "0.05", "--alone", "1"),
        *("--tolerance", "4", "--arms", ARMS, "--out", str(out), *arguments),
    )


async def test_a_simulated_sweep_from_end_to_end(tmp_path: Path) -> None:
    returncode, said = await simulated(tmp_path, "--", "--num-blocks", "4096")
    assert returncode == 0, said
    assert (tmp_path / "goodput.md").read_text() in said
    progress, _, _ = said.partition("/s: ")
    assert progress.count(f"the best alone: {', '.join(map(cell_name, GRID))}\n") == 1
    sweep = Sweep.read(tmp_path / "goodput.jsonl")
    assert sweep.conditions.simulated
    assert sweep.arms("chat") == ARMS.split(",")
    assert all(len(sweep.of("chat", arm)) > 2 for arm in ARMS.split(","))


async def test_what_cannot_be_simulated_is_told_in_words(tmp_path: Path) -> None:
    returncode, said = await simulated(tmp_path, "--", "--policy", "worst-first")
    assert returncode == 1
    assert "worst-first" in said
    assert "Traceback" not in said


async def test_an_arm_that_cannot_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    returncode, said = await bench(
        *("--device", "mock:h100", "--devices", "2", "--arms", "1p1d", "--out", str(tmp_path)),
        *("--", "--model", "nowhere"),
    )
    assert returncode == 1
    assert "no model 'nowhere'" in said
    assert "Traceback" not in said
    logs = tmp_path / "logs"
    assert str(logs) in said.replace("\n", "")
    assert "no model 'nowhere'" in (logs / "1p1d.log").read_text()
