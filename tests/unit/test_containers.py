"""The compose files, the Dockerfile, the unit: how little a container may do. Takes no engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.process.settings import DRAIN_TIMEOUT_S, ServiceSettings
from tandem.worker.service import STOP_S

ROOT = Path(__file__).parents[2]
ROLES = ("gateway", "prefill", "decode")


# Of the hub's client.
HUB = {"HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"}
# Of OpenTelemetry's, which the gateway alone has: docs/tracing.md.
OTEL = {
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES"),
    *("OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
}
# What a container's service is not told by whoever starts it.
NOT_TOLD = {
    *("host", "http_port", "grpc_port", "port", "advertise", "worker_id"),  # the files say where
    *("tenants", "api_keys", "tls_dir"),  # files, which take a mount
    *("batching", "prefill_token_budget"),  # colocated workers'
    "standby",  # of a second gateway
    "weight_sharers",  # they have memory of their own
    *("faults", "allow_faults", "dump_logits", "min_frame_bytes"),  # for tests
    *("mock_verify", "mock_runs_ahead"),
}
SETTINGS: dict[str, tuple[type[ServiceSettings], ...]] = {
    "gateway": (GatewaySettings,),
    # They are told the same.
    "prefill": (PrefillSettings, DecodeSettings),
    "decode": (PrefillSettings, DecodeSettings),
}


def services(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / name).read_text())["services"])


SERVICES = services("docker-compose.yml")
WITH_TLS = services("docker-compose.tls.yml")


@pytest.mark.parametrize("service", [*SERVICES.values(), WITH_TLS["certs"]])
def test_it_may_write_where_it_must_and_has_no_privilege(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp:size=64m"]
    assert service["pids_limit"] and service["mem_limit"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "user"}
    # Of the machine's own files it sees none.
    assert not [each for each in service["volumes"] if each.startswith((".", "/", "~"))]


def test_only_the_gateway_is_reached_and_from_this_machine_unless_told_otherwise() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert not published["prefill"] and not published["decode"]
    assert len(published["gateway"]) == 2
    assert all(port.startswith("${TANDEM_HOST:-127.0.0.1}:") for port in published["gateway"])
    assert not any("network_mode" in service for service in SERVICES.values())


@pytest.mark.parametrize("role", ROLES)
def test_a_service_is_told_what_it_knows_and_of_no_file_that_it_cannot_see(role: str) -> None:
    environment = SERVICES[role]["environment"]
    fields = {
        f"TANDEM_{name.upper()}": field.annotation
        for settings in SETTINGS[role]
        for name, field in settings.model_fields.items()
    }
    others = HUB | OTEL if role == "gateway" else HUB
    assert environment.keys() >= others
    told = environment.keys() - others
    assert not [name for name in told if fields[name] == Path | None]
    assert told == fields.keys() - {f"TANDEM_{name.upper()}" for name in NOT_TOLD}


def test_the_common_settings_reach_who_they_are_for() -> None:
    both = {"TANDEM_LOG_LEVEL", "TANDEM_LOG_FORMAT", "TANDEM_DRAIN_TIMEOUT", "TANDEM_MODEL"}
    gateway = {"TANDEM_API_KEY", "TANDEM_POLICY", "TANDEM_TPOT_TARGET_MS", "TANDEM_LOCAL_PREFILL"}
    workers = {"TANDEM_MEMORY_SHARE", "TANDEM_QUANTIZATION", "TANDEM_KV_CACHE_DTYPE"}
    assert both | gateway <= SERVICES["gateway"]["environment"].keys()
    for role in ("prefill", "decode"):
        assert both | workers <= SERVICES[role]["environment"].keys()
        assert "TANDEM_API_KEY" not in SERVICES[role]["environment"]


def test_on_cpus_each_role_has_its_part_of_the_cores() -> None:
    devices = {role: SERVICES[role]["environment"]["TANDEM_DEVICE"] for role in ROLES[1:]}
    assert devices == {
        "prefill": "${TANDEM_DEVICE:-cpu:1/2}",
        "decode": "${TANDEM_DEVICE:-cpu:2/2}",
    }


def test_a_unit_is_given_the_time_that_it_takes_to_drain_and_is_started_again() -> None:
    unit = (ROOT / "deploy/systemd/tandem@.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    # A step that hangs is waited for after that.
    assert int(settings["TimeoutStopSec"]) > DRAIN_TIMEOUT_S + STOP_S
    assert settings["Restart"] == "always" and float(settings["RestartSec"]) > 0
    assert settings["StartLimitIntervalSec"] == "0"


def test_no_image_runs_as_root() -> None:
    stages: dict[str, list[str]] = {}
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            stages[name] = [*stages.get(base, [])]
        elif line.startswith("USER "):
            stages[name].append(line.removeprefix("USER "))
    assert {role: stages[role][-1:] for role in ROLES} == {role: ["10001:10001"] for role in ROLES}


def test_on_a_gpu_a_worker_can_compile_kernels_and_load_them() -> None:
    text = (ROOT / "Dockerfile").read_text()
    worker = text[text.index(" AS torch") : text.index(" AS prefill")]
    assert "apt-get install --yes --no-install-recommends gcc libc6-dev" in worker
    assert "if pip show --quiet triton" in worker
    # Nothing on a tmpfs may be loaded.
    assert "TANDEM_CACHE=/cache " in text
    assert "ENV TRITON_CACHE_DIR=$TANDEM_CACHE/triton\n" in worker
    for role in ("prefill", "decode"):
        assert "cache:/cache" in SERVICES[role]["volumes"]


def test_with_tls_each_service_has_its_own_certificate_and_no_other() -> None:
    for role in ROLES:
        assert WITH_TLS[role]["volumes"] == [f"tls-{role}:/tls/{role}:ro"]
        assert WITH_TLS[role]["environment"] == {"TANDEM_TLS_DIR": "/tls"}
        needs = WITH_TLS[role]["depends_on"]["certs"]
        assert needs == {"condition": "service_completed_successfully"}
    assert WITH_TLS["certs"]["network_mode"] == "none"
    assert {"tls-ca:/tls/ca"} < {*WITH_TLS["certs"]["volumes"]}


def test_nothing_secret_is_built_into_an_image() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "TANDEM_API_KEY" not in text
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
