"""The compose files, as the compose command reads them; takes no engine."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
import yaml
from compose_project import NoCompose, compose_command
from container_base import ROOT

from tandem.process.settings import DRAIN_TIMEOUT_S
from tandem.worker.service import STOP_S

FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
# What a service may be told by whoever starts the containers, and is not told unless they do.
PASSED_ON = {
    service: {name for name, value in FILE[service]["environment"].items() if value is None}
    for service in ("gateway", "prefill", "decode")
}


def config(*files: str, **environment: str) -> dict[str, Any]:
    """The services, where of this project's variables these are set and no others."""
    ours = ("TANDEM_", "HF_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    try:
        command = compose_command()
    except NoCompose as error:
        pytest.skip(str(error))
    for file in files:
        command += ["-f", file]
    output = subprocess.run(
        [*command, "config"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={**others, **environment},
    ).stdout
    return yaml.safe_load(output)["services"]


def test_with_gpus_each_worker_has_one_of_its_own() -> None:
    services = config("docker-compose.yml", "docker-compose.gpu.yml")
    assert gpus_of(services["prefill"]) == ["0"]
    assert gpus_of(services["decode"]) == ["1"]
    assert "deploy" not in services["gateway"]
    for role in ("prefill", "decode"):
        assert services[role]["environment"]["TANDEM_DEVICE"] == "cuda:0"
        # Empty, and not the index of CPU builds.
        assert services[role]["build"]["args"]["TORCH_INDEX"] == ""
        assert services[role]["image"] == f"tandem-{role}:cuda"


def test_every_service_is_bounded_shut_in_and_restarted() -> None:
    for service in config("docker-compose.yml").values():
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == "unless-stopped"


def test_a_service_is_given_the_time_that_it_takes_to_drain() -> None:
    for service in config("docker-compose.yml").values():
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        # A step that hangs is waited for after that.
        assert grace_s > DRAIN_TIMEOUT_S + STOP_S


def test_a_longer_drain_is_set_from_outside_and_so_is_the_time_for_it() -> None:
    services = config("docker-compose.yml", TANDEM_DRAIN_TIMEOUT="110", TANDEM_STOP_GRACE="120s")
    for service in services.values():
        assert service["environment"]["TANDEM_DRAIN_TIMEOUT"] == "110"
        # As one compose command writes it, or the other.
        assert service["stop_grace_period"] in {"120s", "2m0s"}


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_is_set_outside_is_passed_on_and_nothing_stands_for_what_is_not(name: str) -> None:
    names = PASSED_ON[name]
    told = config("docker-compose.yml", **dict.fromkeys(names, "0.5"))[name]["environment"]
    assert {each for each in names if told.get(each) == "0.5"} == names
    # None: the container has no such variable. Empty would be a value.
    untold = config("docker-compose.yml")[name]["environment"]
    assert [each for each in names if untold.get(each) is not None] == []


def test_with_tls_the_certificates_come_first_and_nothing_else_changes() -> None:
    plain = config("docker-compose.yml")
    services = config("docker-compose.yml", "docker-compose.tls.yml")
    assert services.keys() == {*plain, "certs"}
    for name, service in plain.items():
        with_tls = services[name]
        assert with_tls["environment"]["TANDEM_TLS_DIR"] == "/tls"
        assert with_tls["depends_on"].keys() == {*service.get("depends_on", {}), "certs"}
        assert len(with_tls["volumes"]) == len(service["volumes"]) + 1
        assert with_tls["read_only"] is True and with_tls["cap_drop"] == ["ALL"]


def gpus_of(service: dict[str, Any]) -> list[str]:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    return device["device_ids"]
