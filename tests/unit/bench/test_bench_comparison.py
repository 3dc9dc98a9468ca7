"""Reports side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from load_reports import SPEC, random_rows, report, row

from tandem.bench.report.bounds import Bounds
from tandem.bench.report.comparison import Comparison, compare, load_differences
from tandem.bench.report.load_report import read_report, to_json
from tandem.core.errors import ConfigError


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {each.name: each.verdict for each in comparison.rows}


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = report(random_rows(20), bounds=Bounds(ttft_ms=300))
    (tmp_path / "a.json").write_bytes(to_json(made))
    assert read_report(tmp_path / "a.json") == made


def test_an_older_files_figures_are_by_the_rules_of_now(tmp_path: Path) -> None:
    made = report(random_rows(20), bounds=Bounds(ttft_ms=300))
    older = replace(made, figures=replace(made.figures, goodput_per_s=7.0))
    (tmp_path / "a.json").write_bytes(to_json(older))
    assert read_report(tmp_path / "a.json") == made


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "tandem.bench.load/9"}', "[1]"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"no report of [^:]+: [^:]"):
        read_report(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_report(tmp_path / "missing.json")


def test_the_same_twice_is_the_same() -> None:
    made = report(random_rows(100), bounds=Bounds(ttft_ms=300))
    comparison = compare(made, made)
    assert {each.ratio for each in comparison.rows} == {1.0}
    assert set(verdicts(comparison).values()) == {""}


def test_chance_makes_no_difference_and_slowness_does() -> None:
    base = report(random_rows(200, seed=1))
    chance = verdicts(compare(base, report(random_rows(200, seed=2))))
    assert list(chance.values()).count("") >= len(chance) - 1
    slow = compare(base, report(random_rows(200, seed=2, slower=1.5)))
    assert verdicts(slow)["TTFT p50, ms"] == verdicts(slow)["ITL p50, ms"] == "worse"
    fast = compare(report(random_rows(200, seed=2, slower=1.5)), base)
    assert verdicts(fast)["TPOT p50, ms"] == "better"


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = 1.2
    covered = 0
    for seed in range(10):
        first, second = (
            report(random_rows(30, seed=number, slower=slower))
            for number, slower in ((2 * seed, 1.0), (2 * seed + 1, truth))
        )
        (median,) = (
            each.interval for each in compare(first, second).rows if each.name == "ITL p50, ms"
        )
        assert median
        covered += median.low <= truth <= median.high
    assert covered >= 7


def test_tokens_of_one_request_are_drawn_together() -> None:
    """Three of eight requests are slow: which are drawn decides, however many tokens they have."""
    rows = [row(each, 100, [30.0 if each % 8 < 3 else 10.0] * 50) for each in range(16)]
    comparison = compare(report(rows), report(rows))
    (median,) = (each.interval for each in comparison.rows if each.name == "ITL p50, ms")
    assert median
    assert (round(median.low, 2), round(median.high, 2)) == (0.33, 3.0)


def test_other_loads_are_refused_unless_they_are_wanted() -> None:
    one, other = report(random_rows(5)), report(random_rows(5), spec=replace(SPEC, rate=8.0))
    with pytest.raises(ConfigError, match=r"\(--rate: 4 / 8\)"):
        compare(one, other)
    assert compare(one, other, anyway=True).differences == ["--rate: 4 / 8"]
    with pytest.raises(ConfigError, match=r"\(--goodput: none / ttft at most 1 ms\)"):
        compare(one, report(random_rows(5), bounds=Bounds(ttft_ms=1)))


def test_other_servers_and_models_are_what_is_compared() -> None:
    other = report(random_rows(5), url="grpc://other:50050", model="another")
    assert compare(report(random_rows(5)), other).differences == []


def test_where_nothing_was_served_there_are_no_ratios() -> None:
    nothing = report([row(0, None, problem="status 503")])
    comparison = compare(nothing, report(random_rows(5)))
    assert all(each.ratio is None and each.verdict == "" for each in comparison.rows)


def test_what_an_older_report_does_not_say_is_no_difference() -> None:
    newer = replace(SPEC, trace="", token_ids="", tokenizer="", timeout_s=600.0)
    assert load_differences(SPEC, newer) == []
    assert load_differences(newer, replace(newer, timeout_s=1.0)) == ["--timeout: 600 / 1"]
    other = replace(newer, same_tokens=False)
    assert load_differences(SPEC, other) == ["--same-tokens: yes / no"]


def test_what_differs_is_named_by_the_flags_that_ask_for_it() -> None:
    closed = replace(
        SPEC, prompts="chat", arrivals="closed", rate=None, concurrency=8, num_requests=100
    )
    assert load_differences(SPEC, closed) == [
        "prompts: ids / chat",
        "arrivals: poisson / closed",
        "--rate: 4 / none",
        "--concurrency: 0 / 8",
        "--requests: 0 / 100",
    ]
