"""What `make chaos` takes for a success, what it says of what was not run, and what is on the
page."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import run
from catalogue import BY_NAME, SCENARIOS, Scenario
from outcome import Outcome, read, without_run

KILL = BY_NAME["SIGKILL decode, at the first to the last token"]
RECORDED = read(run.FIGURES)


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_was_survived_in_time(name: str) -> None:
    scenario, outcome = BY_NAME[name], RECORDED[name]
    assert scenario.is_clean(outcome), scenario.complaints(outcome)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_what_has_a_limit_is_measured(scenario: Scenario) -> None:
    outcome = RECORDED.get(scenario.name)
    if outcome is None:
        pytest.skip("no run is recorded")
    assert outcome.detected_s or scenario.max_detected_s == inf
    assert outcome.pause_s or scenario.max_pause_s == inf


def test_what_is_detected_or_goes_on_too_late_is_not_clean() -> None:
    scenario = replace(KILL, max_detected_s=2.0, max_pause_s=5.0)
    in_time = Outcome(KILL.name, faults=2, survived=2, detected_s=[0.1, 2.0], pause_s=[0.5, 5.0])
    assert scenario.is_clean(in_time)
    assert scenario.complaints(in_time) == []
    late = replace(in_time, detected_s=[0.1, 2.41], pause_s=[6.0, 0.5])
    assert not scenario.is_clean(late)
    assert scenario.complaints(late) == [
        "detected after 2.41 s, of 2 s at the most",
        "a pause of 6.00 s, of 5 s at the most",
    ]
    assert not scenario.is_clean(replace(in_time, survived=1))
    assert not scenario.is_clean(replace(in_time, leaked=1))


def test_scenarios_without_a_run_are_named() -> None:
    assert without_run(["a", "b", "c"], {"b": 1}) == "No run is recorded of: a; c."
    assert without_run(["a"], {"a": 1}) == ""


def test_the_page_says_what_is_recorded() -> None:
    assert run.section(RECORDED) in run.PAGE.read_text()


def test_a_failure_is_not_hidden_by_what_was_skipped() -> None:
    clean, failed, skipped = run.CLEAN, run.NOT_CLEAN, run.SKIPPED
    assert len({clean, failed, skipped}) == 3
    assert run.worse(clean, clean) == clean
    assert run.worse(clean, skipped) == skipped
    assert run.worse(failed, skipped) == run.worse(failed, clean) == failed
    assert run.worse(clean, 7) == run.worse(7, skipped) == 7


def test_what_needs_a_network_is_named_where_there_can_be_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "can_make_namespaces", lambda: False)
    needy = [each for each in SCENARIOS if each.in_namespaces]
    assert run.run_in_namespaces(needy) == run.SKIPPED
    said = capsys.readouterr().out
    assert said.startswith("SKIPPED") and all(each.name in said for each in needy)
    assert run.run_in_namespaces([]) == run.CLEAN
