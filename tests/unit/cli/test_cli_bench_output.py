"""What `tandem bench serve` and `compare` print."""

from __future__ import annotations

import io

from load_reports import report, row
from rich.console import Console

from tandem.bench.report.comparison import compare
from tandem.bench.report.load_page import load_page
from tandem.bench.report.load_report import LoadReport
from tandem.cli.bench_output import print_comparison, print_report


def printed(made: LoadReport) -> str:
    file = io.StringIO()
    print_report(made, Console(file=file, highlight=False, width=80))
    return file.getvalue()


def test_tokens_that_nobody_counted_are_told() -> None:
    made = report([row(0.0, counted=False), row(1.0, counted=True), row(2.0)])
    words = "the server did not count the tokens of 1 answers"
    assert words in " ".join(printed(made).split())
    assert words in load_page(made)
    assert "did not count" not in printed(report([row(0.0, counted=True)]))


def test_problems_of_a_kind_are_told_once_in_lines_that_are_not_torn() -> None:
    long = "the model is not loaded: " + "x" * 90
    rows = [row(0.0)]
    rows += [row(9.0, None, problem=f"status 500: request {n} failed") for n in range(3)]
    rows += [row(9.0, None, problem=f"status 503 busy: {long}")] * 2
    rows += [row(9.0, problem=f"{n} tokens came, 9 were asked for") for n in range(7)]
    rows += [row(9.0, None, problem=f"kind {chr(97 + n)}") for n in range(4)]
    rows += [row(9.0, None, problem="status 429", measured=False)]
    lines = printed(report(rows)).splitlines()
    assert lines[lines.index("problem, 7 times: 0 tokens came, 9 were asked for") :] == [
        "problem, 7 times: 0 tokens came, 9 were asked for",
        "problem, 3 times: status 500: request 0 failed",
        f"problem, 2 times: status 503 busy: {long}",
        "problem, 1 times: kind a",
        "problem, 1 times: kind b",
        "and 2 more, 2 times",
        "problem, not measured, 1 times: status 429",
    ]
    assert "Problems beside what is measured" in load_page(report(rows))


def test_a_server_that_wants_openais_fields_alone_is_told_how() -> None:
    refused = "status 400: Unrecognized request argument supplied: ignore_eos"
    said = printed(report([row(0.0, None, problem=refused), row(1.0, None, problem="status 400")]))
    assert f"{refused} (--no-ignore-eos sends OpenAI's own fields only)" in said
    assert said.count("--no-ignore-eos") == 1


def test_how_much_of_the_prompts_was_cached_is_told() -> None:
    cold, warm = (report([row(0.0, num_cached=cached), row(1.0)]) for cached in (0, 120))
    assert "prompt tokens: 128, 0.0% cached" in printed(cold)
    assert "prompt tokens: 128, 93.8% cached" in printed(warm)
    assert "prompt tokens: 64, how many were cached is not told" in printed(report([row(0.0)]))
    file = io.StringIO()
    print_comparison(compare(cold, warm), ("cold", "warm"), Console(file=file, width=200))
    assert "warm: prompt tokens: 128, 93.8% cached" in file.getvalue()


def test_where_nothing_was_served_no_figure_is_told() -> None:
    said = printed(report([row(0.0, None, problem="status 503")]))
    assert "problem, 1 times: status 503" in said
    assert "TTFT" not in said
    assert "p50" not in said
    assert "prompt tokens" not in said
