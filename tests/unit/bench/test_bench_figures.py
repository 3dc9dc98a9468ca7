"""From answers to rows, and from these to figures."""

from __future__ import annotations

import pytest
from load_reports import row

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import UNFINISHED
from tandem.bench.report.bounds import Bounds, parse_bounds
from tandem.bench.report.figures import Window, figures_of
from tandem.bench.report.rows import request_row
from tandem.bench.watch import Asked
from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError

WINDOW = Window(0.0, 10_000.0)


def asked(*arrivals: tuple[float, int], num_output: int = 4, **changed) -> Asked:
    answer = Answer(Prompt((1, 2, 3), num_output), 10.2, **changed)
    for now, num_tokens in arrivals:
        answer.note(now, num_tokens)
    return Asked(answer, due_s=10.0, began_s=10.001, ended_s=20.0)


def test_times_count_from_when_a_request_was_due() -> None:
    made = request_row(asked((11, 1), (12, 2), (14, 4)), start_s=9.0, measured=True)
    assert (made.due_ms, made.late_ms) == (1000, pytest.approx(1))
    assert (made.ttft_ms, made.latency_ms, made.tpot_ms) == (1000, 4000, 1000)
    assert (made.chunk_ms, made.chunk_tokens) == ([1000, 2000], [1, 1, 2])
    assert made.arrivals() == [(2000, 1), (3000, 1), (5000, 2)]
    assert (made.num_prompt, made.num_output, made.problem) == (3, 4, "")


def test_what_the_server_tells_of_the_prompt_counts() -> None:
    told = {"prompt_tokens": 40, "cached_tokens": 16, "mode": "local"}
    made = request_row(asked((11, 4), told=told), 9.0, measured=True)
    assert (made.num_prompt, made.num_cached, made.mode) == (40, 16, "local")


def test_no_answer_has_no_times() -> None:
    made = request_row(asked(error="status 503"), 9.0, measured=True)
    assert (made.ttft_ms, made.latency_ms, made.tpot_ms, made.arrivals()) == (None, None, None, [])
    assert made.failed


def test_what_nobody_measures_may_be_cut_off_but_not_fail() -> None:
    assert not row(0, measured=False, problem=UNFINISHED).failed
    assert row(0, measured=True, problem=UNFINISHED).failed
    assert row(0, measured=False, problem="status 500").failed


def test_figures_are_of_the_measured_and_rates_of_all() -> None:
    rows = [
        row(0, 100, [10] * 9),
        row(1000, None, problem="status 503"),
        row(2000, 300, [20] * 9, num_cached=32),
        row(3000, 50, [10] * 9, measured=False),
        row(9900, 200, [10], measured=False, problem=UNFINISHED),
    ]
    figures = figures_of(rows, WINDOW, Bounds(ttft_ms=200))
    assert (figures.num_requests, figures.num_failed) == (3, 1)
    assert (figures.num_prompt_tokens, figures.num_output_tokens) == (128, 20)
    assert figures.num_cached_tokens == 32
    assert figures.requests_per_s == pytest.approx(0.3)
    # The last one's tokens come after the window.
    assert figures.output_tokens_per_s == pytest.approx(3.0)
    # The one that was not measured is one of those that ended, as in requests/s.
    assert (figures.goodput_per_s, figures.goodput_share) == (0.2, pytest.approx(1 / 3, abs=1e-4))
    assert figures.ttft_ms and figures.tpot_ms and figures.itl_ms
    assert (figures.ttft_ms.count, figures.ttft_ms.p50, figures.ttft_ms.max) == (2, 200, 300)
    assert figures.tpot_ms.mean == 15
    assert figures.itl_ms.count == 18


def test_goodput_is_never_above_throughput() -> None:
    """Of a run whose last requests end after its window."""
    rows = [row(due_ms, 100, [400]) for due_ms in range(0, 10_000, 250)]
    figures = figures_of(rows, WINDOW, Bounds(ttft_ms=200))
    assert figures.goodput_share == 1
    assert figures.goodput_per_s == figures.requests_per_s == 3.9


def test_pieces_of_several_tokens_are_told() -> None:
    figures = figures_of([row(0, 100, [50], num_output=6, chunk_tokens=[2, 4])], WINDOW, None)
    assert figures.tokens_per_chunk == 3
    assert figures.itl_ms and figures.itl_ms.count == 1
    assert figures.tpot_ms and figures.tpot_ms.p50 == 10


def test_nothing_served_has_no_times_and_no_rates() -> None:
    figures = figures_of([row(0, None, problem="reset")], Window(0, 0), None)
    assert figures.ttft_ms is figures.tpot_ms is figures.itl_ms is figures.tokens_per_chunk is None
    assert (figures.requests_per_s, figures.output_tokens_per_s) == (0, 0)


@pytest.mark.parametrize(
    "texts", [["ttft:500,tpot:50"], ["ttft:500", "tpot:50"], ["ttft:500 tpot:50.0"]]
)
def test_bounds_as_they_are_written(texts: list[str]) -> None:
    assert parse_bounds(texts) == Bounds(ttft_ms=500, tpot_ms=50)


@pytest.mark.parametrize("text", ["ttft", "ttft:", "itl:5", "ttft:-5", "ttft=500", "TTFT:5"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_bounds([text])


def test_all_bounds_are_kept_or_none() -> None:
    bounds = Bounds(ttft_ms=100, tpot_ms=10, latency_ms=130)
    assert bounds.met_by(row(0, 100, [10, 10]))
    assert not bounds.met_by(row(0, 101, [10, 10]))
    assert not bounds.met_by(row(0, 100, [10, 11]))
    assert not bounds.met_by(row(0, 100, [10] * 4))
    assert not bounds.met_by(row(0, 100, [10], problem="reset"))
    assert bounds.met_by(row(0, 100, []))
    assert parse_bounds([]) is None
