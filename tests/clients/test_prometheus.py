"""Prometheus itself against a running stack: it scrapes, and answers the board's queries."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from up import Up

from tandem.bench.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD = DEPLOY / "grafana" / "tandem.json"
PROMETHEUS = shutil.which("prometheus")
NUM_SCRAPES = 4
CHOSEN = '{job=~"$job",instance=~"$instance"}'


@pytest.fixture
def prometheus(mock_up: Up, tmp_path: Path) -> Iterator[httpx.Client]:
    """Scrapes the gateway every second."""
    if PROMETHEUS is None:
        pytest.skip("NOT TESTED: there is no Prometheus here: Debian's package is `prometheus`")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: tandem\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{mock_up.http_port}']}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://{address}") as client:
            yield client
    finally:
        process.kill()
        process.wait()


def query(prometheus: httpx.Client, expr: str) -> list[float]:
    """The values of an expression now."""
    response = prometheus.get("/api/v1/query", params={"query": expr})
    answer: dict[str, Any] = response.json()
    assert answer["status"] == "success", (expr, answer)
    return [float(each["value"][1]) for each in answer["data"]["result"]]


def now(expr: str) -> str:
    """As Grafana asks for it, with all gateways chosen."""
    for name, value in (("__rate_interval", "30s"), ("job", "tandem"), ("instance", ".+")):
        expr = expr.replace(f"${name}", value)
    return expr


def num_scrapes(prometheus: httpx.Client) -> float:
    try:
        return sum(query(prometheus, "count_over_time(up[1h])"))
    except (httpx.TransportError, json.JSONDecodeError):
        return 0  # It is not up yet.


def test_prometheus_answers_the_boards_queries(prometheus: httpx.Client, mock_url: str) -> None:
    client = OpenAI(base_url=mock_url, api_key="none", max_retries=0, timeout=60)
    deadline = time.monotonic() + 60
    while num_scrapes(prometheus) < NUM_SCRAPES:
        assert time.monotonic() < deadline
        client.completions.create(model="default", prompt="x" * 200, max_tokens=20)
    assert query(prometheus, "min(up)") == [1]
    exprs = [
        now(target["expr"])
        for panel in json.loads(BOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    answers = {expr: query(prometheus, expr) for expr in exprs}
    assert not {expr for expr, values in answers.items() if not values}
    (tokens_s,) = answers[now(f"rate(vllm:generation_tokens_total{CHOSEN}[$__rate_interval])")]
    assert tokens_s > 0
    (first_token_s,) = answers[
        now(
            "histogram_quantile(0.5, sum by (le) (rate("
            f"vllm:time_to_first_token_seconds_bucket{CHOSEN}[$__rate_interval])))"
        )
    ]
    assert 0 < first_token_s < math.inf


def test_prometheus_takes_the_configuration_and_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT TESTED: no promtool is here: Debian's package `prometheus` has it")
    config = DEPLOY / "prometheus" / "prometheus.yml"
    subprocess.run([promtool, "check", "config", config], check=True)
