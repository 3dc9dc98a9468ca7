from dataclasses import replace

import pytest
from made_up_machine import settings

from tandem.cli.fleet import (
    PREFILL_NICENESS,
    Service,
    plan_fleet,
    spread_device,
)
from tandem.core.device import CpuDevice, CudaDevice, MockDevice
from tandem.core.errors import ConfigError

SETTINGS = replace(settings(topology="1p2d", model="mock", device="mock:zero"), host="0.0.0.0")
PORTS = [50051, 50052, 50053]


def option(service: Service, name: str) -> str | None:
    command = service.command
    return command[command.index(name) + 1] if name in command else None


def test_prefill_workers_take_the_first_ports() -> None:
    fleet = plan_fleet(SETTINGS, PORTS, [0, 1])
    assert [(each.name, each.port) for each in fleet.workers] == [
        ("prefill-0", 50051),
        ("decode-0", 50052),
        ("decode-1", 50053),
    ]


def test_command_lines_name_the_role() -> None:
    fleet = plan_fleet(SETTINGS, PORTS, [0, 1])
    assert [each.command[each.command.index("-m") + 1] for each in fleet.services] == [
        "prefill_service",
        "decode_service",
        "decode_service",
        "gateway",
    ]


def test_the_gateway_knows_the_workers_and_only_it_is_seen_from_outside() -> None:
    fleet = plan_fleet(SETTINGS, PORTS, [0, 1])
    assert option(fleet.gateway, "--prefill") == "127.0.0.1:50051"
    assert option(fleet.gateway, "--decode") == "127.0.0.1:50052,127.0.0.1:50053"
    assert option(fleet.gateway, "--host") == "0.0.0.0"
    assert {option(worker, "--host") for worker in fleet.workers} == {"127.0.0.1"}


def test_a_key_is_the_gateways_alone_and_on_no_command_line() -> None:
    assert not SETTINGS.needs_key
    settings = replace(SETTINGS, api_key="secret")
    assert settings.needs_key and "secret" not in repr(settings)
    fleet = plan_fleet(settings, PORTS, [0, 1])
    assert fleet.gateway.environment == {"TANDEM_API_KEY": "secret"}
    assert not any(worker.environment for worker in fleet.workers)
    assert not any("secret" in each.command for each in fleet.services)
    assert "secret" not in repr(fleet)


def test_options_that_are_not_given_are_not_passed_on() -> None:
    settings = replace(SETTINGS, worker_options={"num-blocks": 64, "dtype": None})
    worker = plan_fleet(settings, PORTS, [0]).workers[0]
    assert option(worker, "--num-blocks") == "64"
    assert option(worker, "--dtype") is None


def test_mock_workers_are_bound_to_no_core() -> None:
    fleet = plan_fleet(SETTINGS, PORTS, [0, 1])
    assert {worker.cores for worker in fleet.workers} == {()}
    assert fleet.core_line() == ""


def test_each_cpu_worker_has_its_own_cores() -> None:
    fleet = plan_fleet(replace(SETTINGS, device="cpu"), PORTS, range(6))
    assert [worker.cores for worker in fleet.workers] == [(0, 1), (2, 3), (4, 5)]
    assert [option(worker, "--device") for worker in fleet.workers] == [
        "cpu:0-1",
        "cpu:2-3",
        "cpu:4-5",
    ]
    assert fleet.core_line() == "prefill-0 on 0-1, decode-0 on 2-3, decode-1 on 4-5"


def test_a_prefill_worker_lets_others_go_first_on_its_own_cores() -> None:
    fleet = plan_fleet(replace(SETTINGS, device="cpu"), PORTS, range(6))
    assert [each.niceness for each in fleet.services] == [PREFILL_NICENESS, 0, 0, 0]


def test_no_prefill_worker_lets_decode_go_first_on_a_core_of_both() -> None:
    fleet = plan_fleet(replace(SETTINGS, device="cpu"), PORTS, [0, 1])
    assert {each.niceness for each in fleet.services} == {0}


def test_it_is_said_when_cores_are_too_few() -> None:
    fleet = plan_fleet(replace(SETTINGS, device="cpu"), PORTS, [0, 1])
    assert fleet.core_line() == (
        "prefill-0 on 0, decode-0 on 1, decode-1 on 0: too few for 3 workers, which share them"
    )


def test_devices_are_spread() -> None:
    assert spread_device("cuda", 2, [0]) == [CudaDevice(0), CudaDevice(1)]
    assert spread_device("cuda:1", 2, [0]) == [CudaDevice(1), CudaDevice(1)]
    assert spread_device("mock:h100", 2, [0]) == [MockDevice("h100")] * 2
    assert spread_device("cpu:1-2", 2, [0, 1, 2]) == [CpuDevice((1,)), CpuDevice((2,))]
    assert spread_device("cpu:2/2", 2, range(4)) == [CpuDevice((2,)), CpuDevice((3,))]


def test_cores_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="cores 2-3 cannot be used here, but 0-1 can"):
        spread_device("cpu:1-3", 2, [0, 1])


def test_workers_on_one_gpu_share_its_memory() -> None:
    def memory_shares(device: str) -> set[str | None]:
        fleet = plan_fleet(replace(SETTINGS, device=device), PORTS, [0])
        return {option(worker, "--memory-share") for worker in fleet.workers}

    def sharers(device: str) -> set[str | None]:
        fleet = plan_fleet(replace(SETTINGS, device=device), PORTS, [0])
        return {option(worker, "--weight-sharers") for worker in fleet.workers}

    assert (sharers("cpu"), sharers("cuda")) == ({"3"}, {"1"})
    assert memory_shares("cuda:0") == {"0.3"}
    assert memory_shares("cuda") == {None}
