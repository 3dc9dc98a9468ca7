"""How peers are found, and what a comparison says of its records."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers import llama_cpp, openvino, vllm
from peers.arm import NotInstalled
from peers.records import Records, Start
from peers.tables import markdown

from tandem.bench.distribution import Distribution
from tandem.bench.summary import Summary

MODEL = Path("/models/small")


def run(arm: str, workload: str, seed: int, num_tokens: int, tpot_ms: float = 10) -> Summary:
    times = Distribution.of([tpot_ms / 1000])
    return Summary(arm, workload, seed, 10.0, 1, num_tokens, times, times, times, times, 0.1, 0)


def records() -> Records:
    runs = [
        run("tandem 1p1d", "A", 0, 1200),
        run("tandem 1p1d", "A", 1, 3000),
        run("vllm", "A", 0, 1000),
        run("vllm", "A", 1, 2000),
        run("vllm", "A", 2, 9000),
        run("tandem 1p1d", "C", 0, 10, tpot_ms=5),
        run("vllm", "C", 0, 10, tpot_ms=20),
    ]
    lines = [each.to_json() for each in runs]
    return Records([*lines[:3], Start("vllm", 100.4, 3 * 2**29).to_json(), *lines[3:]])


def test_ratios_are_taken_within_a_round() -> None:
    ratios = records().ratios("tandem 1p1d", "vllm", "A", lambda each: each.tokens_per_s)
    assert ratios == [1.2, 1.5]


def test_the_tables_say_it_all() -> None:
    text = markdown(records())
    assert "| vllm | 200 (100 to 900) |" in text
    assert "| A, tok/s: tandem 1p1d | 1.35 (1.20 to 1.50) |" in text
    assert "| C, TPOT: tandem 1p1d | 0.25 |" in text
    assert "| vllm | 100.4 | 1.50 |" in text


@pytest.mark.parametrize("peer", [vllm, llama_cpp, openvino])
def test_a_peer_that_is_not_there_says_what_is_missing(peer: object, tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match=str(tmp_path)):
        peer.arms(tmp_path, MODEL, False)  # type: ignore[attr-defined]
