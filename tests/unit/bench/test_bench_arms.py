"""Arms as the command line writes them, and the sweep that flags ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.bench.arms import cpu_arms, device_arms, grid_arms, parse_arm
from tandem.bench.sweep import poisson_loop
from tandem.cli.bench_flags import GoodputOptions
from tandem.cli.goodput import sweep_settings
from tandem.core.errors import ConfigError

LOGS = Path("/logs")


def options(**changed) -> GoodputOptions:
    return GoodputOptions(**{"device": "mock:h100x5", "workloads": "chat", **changed})


@pytest.mark.parametrize(
    "text", ["1p1d", "colocated:2+batching=chunked", "1p1d+local-prefill=off+policy=fcfs"]
)
def test_arms_are_read_as_they_are_written(text: str) -> None:
    assert str(parse_arm(text)) == text


@pytest.mark.parametrize("text", ["", "2d", "1p1d+", "1p1d+policy", "1p1d+=fcfs", "1p1d+policy="])
def test_what_is_no_arm_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_arm(text)


def test_an_arm_is_a_tandem_up_with_its_flags() -> None:
    spec = parse_arm("1p1d+local-prefill=off").spec(("--device", "cpu"), LOGS, 90)
    command = " ".join(spec.command)
    assert "up --topology 1p1d" in command
    # Who starts it waits as long as it does itself.
    assert "--start-timeout 90" in command
    assert spec.start_timeout_s == 90
    assert command.endswith("--device cpu --local-prefill off")


def test_all_arms_have_the_same_devices() -> None:
    assert {arm.topology.num_workers for arm in device_arms(8)} == {8}
    assert [str(arm) for arm in device_arms(3)] == [
        "colocated:3+batching=chunked",
        "colocated:3+batching=prefill-first",
        "colocated:3+batching=decode-first",
        "1p2d",
        "2p1d",
    ]
    assert [arm.is_colocated for arm in cpu_arms(2)] == [True] * 4 + [False] * 3


def test_a_mock_sweep_knows_its_dilation_and_its_vocabulary() -> None:
    settings = sweep_settings(options())
    assert settings.conditions.dilation == 5
    assert settings.conditions.model == "mock"
    assert max(settings.token_ids) < 260
    assert settings.conditions.num_devices == 8
    assert len(settings.arms) == 10


def test_a_simulated_sweep_has_no_dilation_and_all_there_is_to_choose() -> None:
    settings = sweep_settings(options(simulated=True))
    assert settings.conditions.num_uncontended == 200
    assert sweep_settings(options()).conditions.num_uncontended == 8
    assert settings.conditions.simulated
    assert settings.conditions.dilation == 1
    assert settings.arms == grid_arms(8)
    # Three policies, three more chunks, and every ratio twice.
    assert len(set(settings.arms)) == 3 + 3 + 2 * 7


def test_a_cpu_sweep_is_of_shorter_requests() -> None:
    settings = sweep_settings(options(device="cpu:0-1"))
    assert (settings.conditions.dilation, settings.conditions.length_scale) == (1, 0.25)
    assert settings.conditions.num_devices == 2
    assert sweep_settings(options(device="cpu", length_scale=1.0)).conditions.length_scale == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"workloads": "poetry"},
        {"arms": "4p4d,colocated:2"},
        {"device": "cuda"},
        {"device": "mock:b200"},
        {"device": "cpu", "simulated": True},
        {"tolerance": 0.5},
        {"tolerance": 1.0},
        {"length_scale": 0.0},
        {"measured_s": 0.0},
    ],
)
def test_a_sweep_that_would_compare_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        sweep_settings(options(**wrong))


def test_a_sweep_may_be_as_long_as_its_requests_take() -> None:
    conditions = sweep_settings(options(measured_s=0.0, num_requests=80)).conditions
    assert poisson_loop(conditions, 4.0).measured_s == 20


def test_its_conditions_are_all_that_was_asked_for() -> None:
    arms = "colocated:2+batching=chunked, 1p1d"
    asked = options(arms=arms, num_devices=2, num_uncontended=3, rates_per_start=4, tolerance=1.5)
    conditions = sweep_settings(asked, ("--num-blocks", "64")).conditions
    assert (conditions.num_devices, conditions.num_uncontended) == (2, 3)
    assert (conditions.rates_per_start, conditions.tolerance) == (4, 1.5)
    assert conditions.arms == ["colocated:2+batching=chunked", "1p1d"]
    assert (conditions.workloads, conditions.up_flags) == (["chat"], ["--num-blocks", "64"])
