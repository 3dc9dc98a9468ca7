"""`guidellm run`, unmodified: it finds the model by itself, and sends made-up prompts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from beside_guidellm import Mix, guidellm_command
from typer.testing import CliRunner
from up import Up

from tandem.artifacts.resolve import resolve
from tandem.bench.report.load_report import read_report
from tandem.cli.app import commands

TIMEOUT_S = 280
NUM_REQUESTS = 8
NUM_TOKENS = 8
MIX = Mix(num_prompt=32, num_output=NUM_TOKENS, concurrency=4, num_requests=NUM_REQUESTS)
# It starts many processes, each of which imports torch.
pytestmark = pytest.mark.timeout(300)


def run(up: Up, model: str, folder: Path, request_format: str) -> dict[str, Any]:
    """The one benchmark in its report."""
    report = folder / "report.json"
    target = up.url
    process = subprocess.run(
        guidellm_command(target, resolve(model).path, MIX, report, request_format),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    assert isinstance(benchmark, dict)
    return benchmark


def check(benchmark: dict[str, Any]) -> None:
    """Every request was served in full, and timed token by token."""
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (NUM_REQUESTS, 0)
    for request in benchmark["requests"]["successful"]:
        assert request["output_tokens"] == NUM_TOKENS
        assert request["prompt_tokens"] >= 32
        assert request["time_to_first_token_ms"] > 0


@pytest.mark.parametrize("request_format", ["/v1/chat/completions", "/v1/completions"])
def test_with_a_mock(mock_up: Up, tmp_path: Path, request_format: str) -> None:
    check(run(mock_up, "mock", tmp_path, request_format))


@pytest.mark.model
def test_with_the_default_model(real_up: Up, tmp_path: Path) -> None:
    check(run(real_up, "default", tmp_path, "/v1/chat/completions"))


@pytest.mark.model
def test_our_own_tool_counts_the_same(real_up: Up, tmp_path: Path) -> None:
    """The same server, the same mix: the same requests with the same tokens. How long they took is
    another matter: `benchmarks/beside_guidellm.py`."""
    theirs = run(real_up, "default", tmp_path, "/v1/completions")["requests"]["successful"]
    out = tmp_path / "ours.json"
    made = CliRunner().invoke(
        commands,
        [
            *("bench", "serve", "--url", real_up.url, "--text"),
            *("--tokenizer", str(resolve("default").path), *MIX.flags(), "--out", str(out)),
        ],
    )
    assert made.exit_code == 0, made.output
    ours = read_report(out).requests
    assert len(ours) == len(theirs) == NUM_REQUESTS
    assert [row.num_output for row in ours] == [each["output_tokens"] for each in theirs]
    assert {row.num_prompt for row in ours} == {MIX.num_prompt}
    for row in ours:
        assert row.tpot_ms and row.ttft_ms and row.latency_ms
        assert len(row.chunk_ms) < row.num_output
