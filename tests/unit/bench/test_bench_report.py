"""What a sweep wrote down, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.bench.goodput_report import report, verdict
from tandem.bench.objectives import CLAIM, GRID
from tandem.bench.outcome import Objective
from tandem.bench.records import (
    Base,
    Conditions,
    RateRun,
    RateSummary,
    Record,
    Sweep,
    UncontendedRun,
    from_json,
    to_json,
)

CONDITIONS = Conditions("mock:h100x5", "mock", 5.0, 1.0, 1.0, 3.0, 0)
GOOD, LATE, FAILED = (9, 4, 0.2, 0.01, ""), (9, 4, 3.0, 0.01, ""), (9, 4, None, None, "")


def rate_run(
    arm: str, rate: float, num_good: int, num_late: int = 0, num_failed: int = 0
) -> RateRun:
    return RateRun(
        workload="chat",
        arm=arm,
        is_colocated=arm.startswith("colocated"),
        rate=rate,
        requests=[*[GOOD] * num_good, *[LATE] * num_late, *[FAILED] * num_failed],
        problems=["status 429"] * min(1, num_failed),
        itl=[(100, 50), (400, 1)],
        late_p99_s=0.001,
        load_cores=0.25,
    )


def records() -> list[Record]:
    return [
        CONDITIONS,
        UncontendedRun("chat", "1p1d", 0.1, 0.012),
        UncontendedRun("chat", "colocated:2", 0.12, 0.01),
        Base("chat", 0.1, 0.01),
        rate_run("1p1d", 2.0, 200),
        rate_run("colocated:2", 2.0, 100, num_late=80, num_failed=20),
        rate_run("colocated:2", 1.0, 200),
        rate_run("1p1d", 4.0, 0, num_failed=200),
    ]


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert [to_json(from_json(to_json(each))) for each in records()] == list(
        map(to_json, records())
    )
    file = tmp_path / "goodput.jsonl"
    file.write_text("".join(to_json(each) + "\n" for each in records()))
    assert report(Sweep.read(file)) == report(Sweep(records()))


def test_levels_are_by_rate_and_count_failures_as_missed() -> None:
    sweep = Sweep(records())
    levels = sweep.levels("chat", "colocated:2", CLAIM)
    assert [(level.rate, level.num_requests, level.num_met) for level in levels] == [
        (1.0, 200, 200),
        (2.0, 200, 100),
    ]
    assert sweep.colocated("chat") == ["colocated:2"]
    assert sweep.split("chat") == ["1p1d"]


def test_the_report_says_it_all() -> None:
    text = report(Sweep(records()))
    assert "| **the best** | 100.0 | 10.0 |" in text
    # 100% at 1/s and 50% at 2/s: 90% at 1.2; 100% at 2/s and none at 4: 90% at 2.2.
    assert "| colocated:2 | 1.20 | **1.20** (1.1" in text
    assert "| 1p1d | 2.20 | **2.20** (2.20 to 2.20) |" in text
    assert "| colocated:2 | 2.00 | 200 | 50% |" in text
    assert "| 20 | 1.0 | 0.25 |" in text


def test_an_arm_that_never_missed_is_marked() -> None:
    assert "**>2.00**" in report(Sweep(records()[:-1]))


def test_the_verdict_is_what_the_interval_allows() -> None:
    whole = records()
    assert "1p1d has 1.83 (1.7" in verdict(Sweep(whole), "chat")
    assert verdict(Sweep(whole), "chat").endswith("(colocated:2): split.")
    slow = [*whole[:4], rate_run("1p1d", 0.5, 100, num_late=100), rate_run("1p1d", 0.4, 200)]
    lost = Sweep([*slow, *(each for each in whole[5:7])])
    assert verdict(lost, "chat").endswith("do not split.")
    same = [*whole[:4], rate_run("1p1d", 1.0, 200), rate_run("1p1d", 2.0, 100, num_late=100)]
    assert verdict(Sweep([*same, *whole[5:7]]), "chat").endswith("no difference shown.")


@pytest.mark.parametrize("kept", ["1p1d", "colocated:2"])
def test_there_is_no_verdict_without_both_kinds(kept: str) -> None:
    runs = [each for each in records() if not isinstance(each, RateRun) or each.arm == kept]
    assert "nothing to compare" in verdict(Sweep(runs), "chat")


def test_summaries_say_what_runs_do() -> None:
    base = {"": Objective(0.1, 0.01)}
    summed = [each.summary(base) if isinstance(each, RateRun) else each for each in records()]
    assert any(isinstance(each, RateSummary) for each in summed)
    assert [from_json(to_json(each)) for each in summed] == summed
    assert report(Sweep(summed)) == report(Sweep(records()))


def test_tenants_are_held_to_bounds_of_their_own() -> None:
    whole = [
        CONDITIONS,
        *(UncontendedRun("chat", "1p1d", 0.1 * n, 0.01, name) for n, name in enumerate("ab", 1)),
        *(Base("chat", 0.1 * n, 0.01, name) for n, name in enumerate("ab", 1)),
        replace(
            rate_run("1p1d", 2.0, 0), requests=[(9, 4, 0.9, 0.01, "a"), (9, 4, 0.9, 0.01, "b")]
        ),
    ]
    again = Sweep([from_json(to_json(each)) for each in whole])
    assert again.levels("chat", "1p1d", (5.0, 1.5))[0].num_met == 1
    assert again.levels("chat", "1p1d", (10.0, 1.5))[0].num_met == 2
    table = report(again)
    assert "| Alone | a: TTFT p50, ms | a: TPOT p50, ms | b: TTFT p50, ms |" in table
    assert "| 1p1d | 100.0 | 10.0 | 200.0 | 10.0 |" in table
    assert again.arms("chat") == ["1p1d"]


def test_a_summary_counts_who_met_which_objective() -> None:
    run = rate_run("1p1d", 2.0, 5, num_late=4, num_failed=1)
    summary = run.summary({"": Objective(0.1, 0.01)})
    assert [summary.level(cell).num_met for cell in GRID] == [5] * 6
    assert summary.num_requests == 10
    assert summary.num_failed == 1
    assert summary.ttft_s == pytest.approx([1.6, None, None])
    failed = rate_run("1p1d", 2.0, 1, num_failed=9).summary({"": Objective(1, 1)})
    assert failed.ttft_s == [None] * 3
