"""What a sweep writes down is read again, old records and new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.bench.records import Conditions, Sweep, from_json, partial, to_json

FIGURES = Path(__file__).parents[3] / "docs" / "figures"


@pytest.mark.parametrize(
    "file", sorted(FIGURES.rglob("goodput.jsonl")), ids=lambda file: file.parent.name
)
def test_published_records_are_read(file: Path) -> None:
    sweep = Sweep.read(file)
    assert sweep.workloads
    assert all(sweep.arms(workload) for workload in sweep.workloads)


def test_conditions_say_what_it_takes_to_repeat_a_sweep() -> None:
    conditions = Conditions(
        *("mock:h100", "mock", 1.0, 0.5, 2.0, 3.0, 7),
        num_devices=2,
        arms=["1p1d", "colocated:2"],
        workloads=["chat"],
        num_uncontended=4,
        rates_per_start=3,
        tolerance=1.2,
        up_flags=["--num-blocks", "64"],
    )
    assert from_json(to_json(conditions)) == conditions


def test_conditions_of_old_sweeps_are_read() -> None:
    line = (
        '{"kind":"conditions","device":"cpu","model":"default","dilation":1.0,"length_scale":0.25,'
        '"warm_up_s":5.0,"measured_s":20.0,"seed":0}'
    )
    conditions = from_json(line)
    assert isinstance(conditions, Conditions)
    assert (conditions.num_uncontended, conditions.arms, conditions.up_flags) == (0, [], [])


def test_what_is_not_whole_has_another_name() -> None:
    assert partial(Path("out/goodput.jsonl")) == Path("out/goodput.partial.jsonl")
