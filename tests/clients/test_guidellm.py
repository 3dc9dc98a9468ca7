"""`guidellm run`, unmodified: it finds the model by itself, and sends made-up prompts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from up import Up

from tandem.artifacts.resolve import resolve

TIMEOUT_S = 280
NUM_REQUESTS = 8
NUM_TOKENS = 8
# It starts many processes, each of which imports torch.
pytestmark = pytest.mark.timeout(300)


def run(up: Up, model: str, folder: Path, request_format: str) -> dict[str, Any]:
    """The one benchmark in its report."""
    program = shutil.which("guidellm")
    assert program, "guidellm is not here: run `make test-clients`"
    report = folder / "report.json"
    target = f"http://127.0.0.1:{up.http_port}"
    process = subprocess.run(
        [
            *(program, "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={target},request_format={request_format}"),
            *("--profile", "kind=concurrent,streams=4"),
            *("--constraint", f"kind=max_requests,count={NUM_REQUESTS}"),
            *("--tokenizer", f"kind=huggingface_auto,model={resolve(model).path}"),
            *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={NUM_TOKENS}"),
            *("--output", f"kind=json,path={report}"),
        ],
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
