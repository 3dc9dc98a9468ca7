"""`tandem bench` compares by two spellings, and drops no flag that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem.bench.load_options import LoadOptions
from tandem.cli.app import commands
from tandem.cli.bench_flags import GoodputOptions, ServeOptions

A, B, PAGE = Path("a.json"), Path("b.json"), Path("x.html")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was to be compared, and how."""
    calls: list[tuple[Any, ...]] = []

    def run_compare(first: Path, second: Path, html: Path | None, *, anyway: bool) -> None:
        calls.append((first, second, html, anyway))

    monkeypatch.setattr("tandem.cli.bench_compare.run_compare", run_compare)
    return calls


@pytest.mark.parametrize("spelling", ["compare", "--compare"])
def test_both_spellings_take_all_flags(compared: list[tuple[Any, ...]], spelling: str) -> None:
    for flags in ([], ["--html", "x.html", "--anyway"]):
        result = CliRunner().invoke(commands, ["bench", spelling, "a.json", "b.json", *flags])
        assert result.exit_code == 0, result.output
    assert compared == [(A, B, None, False), (A, B, PAGE, True)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--html x.html compare a.json b.json", "go behind the command"),
        ("--anyway compare a.json b.json", "go behind the command"),
        ("--html x.html --anyway", "go behind the command"),
        ("--anyway serve", "go behind the command"),
        ("--compare a.json b.json serve", "--compare stands alone"),
        ("--compare a.json b.json compare a.json b.json", "--compare stands alone"),
    ],
)
def test_a_flag_that_would_be_dropped_is_refused(
    compared: list[tuple[Any, ...]], arguments: str, words: str
) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(commands, ["bench", *arguments.split()])
    assert result.exit_code == 2
    assert words in result.output
    assert not compared


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What loads and sweeps are asked for, without any."""
    calls: list[Any] = []
    monkeypatch.setattr("tandem.cli.bench_serve.run_serve", lambda *each: calls.extend(each))
    monkeypatch.setattr("tandem.cli.goodput.run_goodput", lambda *each: calls.extend(each))
    return calls


def test_flags_of_a_load_are_told_from_those_of_its_target(asked: list[Any]) -> None:
    flags = "--url http://a:1 --chat --requests 5 --goodput ttft:5 --goodput tpot:1 --no-probe"
    result = CliRunner().invoke(commands, ["bench", "serve", *flags.split()])
    assert result.exit_code == 0, result.output
    goodput = ["ttft:5", "tpot:1"]
    assert asked == [
        ServeOptions(url="http://a:1", is_chat=True, goodput=goodput, has_probe=False),
        LoadOptions(num_requests=5),
    ]


def test_the_gateway_is_named_by_the_environment_as_for_top(asked: list[Any]) -> None:
    runner = CliRunner(env={"TANDEM_URL": "http://elsewhere:8000"})
    assert runner.invoke(commands, ["bench", "serve"]).exit_code == 0
    assert asked[0].url == "http://elsewhere:8000"


def test_a_sweep_has_flags_of_its_own_and_of_up(asked: list[Any]) -> None:
    flags = "--device mock:h100 --devices 2 --alone 3 --start-timeout 9 -- --num-blocks 64"
    result = CliRunner().invoke(commands, ["bench", "goodput", *flags.split()])
    assert result.exit_code == 0, result.output
    assert asked == [
        GoodputOptions(device="mock:h100", num_devices=2, num_uncontended=3, start_timeout_s=9),
        ["--num-blocks", "64"],
    ]


@pytest.mark.parametrize(
    "flags",
    [
        *("--rates-per-start 0", "--alone 0", "--devices 0"),
        *("--seconds -1", "--requests -1", "--warm-up -1"),
    ],
)
def test_numbers_that_would_measure_nothing_are_refused(asked: list[Any], flags: str) -> None:
    result = CliRunner().invoke(commands, ["bench", "goodput", *flags.split()])
    assert result.exit_code == 2
    assert not asked


def test_without_any_it_helps() -> None:
    result = CliRunner().invoke(commands, ["bench"])
    assert result.exit_code == 0
    assert "goodput" in result.output
