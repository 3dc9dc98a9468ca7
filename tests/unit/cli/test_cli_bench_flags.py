"""`tandem bench` compares by two spellings, and drops no flag that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem.cli.app import commands

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


def test_without_any_it_helps() -> None:
    result = CliRunner().invoke(commands, ["bench"])
    assert result.exit_code == 0
    assert "goodput" in result.output
