"""The flags of `tandem up` and `tandem doctor`, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.cli.app import commands
from tandem.cli.fleet import FleetSettings, plan_fleet
from tandem.cli.fleet_commands import ALL, DECODE, GATEWAY, WORKERS, FleetFlags, passed_on
from tandem.process.settings import ServiceSettings

# What `tandem up` says to each service itself.
SAID_BY_UP = {
    *("host", "port", "http_port", "grpc_port", "prefill", "decode", "model", "device"),
    *("worker_id", "weight_sharers"),
}
# By the environment, where no list of processes shows it.
IN_THE_ENVIRONMENT = {"api_key"}
# What a service alone is told, or its environment.
NOT_FOR_UP = {
    *("advertise", "metrics_port"),  # of one worker, or of another machine's
    "standby",  # of a second gateway, for workers that the first one has
    *("min_frame_bytes", "mock_runs_ahead", "faults", "allow_faults", "dump_logits"),  # for tests
}


OF_SERVICES = pytest.mark.parametrize(
    ("settings", "panels"),
    [
        (GatewaySettings, (ALL, GATEWAY)),
        (PrefillSettings, (ALL, WORKERS)),
        (DecodeSettings, (ALL, WORKERS, DECODE)),
    ],
)


@OF_SERVICES
def test_each_setting_of_a_service_is_a_flag_of_up(
    settings: type[ServiceSettings], panels: tuple[str, ...]
) -> None:
    left_out = SAID_BY_UP | IN_THE_ENVIRONMENT | NOT_FOR_UP
    assert set(passed_on(*panels)) == settings.model_fields.keys() - left_out


@OF_SERVICES
def test_help_tells_what_a_service_takes_unless_it_is_told(
    settings: type[ServiceSettings], panels: tuple[str, ...]
) -> None:
    flags = get_type_hints(FleetFlags, include_extras=True)
    defaults = {name: settings.model_fields[name].default for name in passed_on(*panels)}
    untold = [
        name
        for name, default in defaults.items()
        if default is not None
        and f"(default: {default if isinstance(default, str) else f'{default:g}'})"
        not in flags[name].__metadata__[0].help
    ]
    assert untold == []


def test_what_is_left_out_is_a_setting_of_some_service() -> None:
    services = (GatewaySettings, PrefillSettings, DecodeSettings)
    settings = {name for each in services for name in each.model_fields}
    assert settings >= SAID_BY_UP | IN_THE_ENVIRONMENT | NOT_FOR_UP


def test_each_service_is_told_what_is_its_own() -> None:
    flags = FleetFlags(device="mock:zero", log_format="json", parked_kv_bytes=7, max_connections=9)
    fleet = plan_fleet(flags.settings(), [1, 2], [0])
    told = {each.name: " ".join(each.command) for each in fleet.services}
    assert all("--log-format json" in command for command in told.values())
    for flag, service in (("--parked-kv-bytes 7", "decode-0"), ("--max-connections 9", "gateway")):
        assert [name for name, command in told.items() if flag in command] == [service]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[FleetSettings]:
    """What `tandem doctor` is asked about."""
    found: list[FleetSettings] = []
    monkeypatch.setattr(
        "tandem.cli.doctor.doctor.run_doctor", lambda settings, *_, **__: found.append(settings)
    )
    return found


def test_doctor_takes_all_flags_of_up(asked: list[FleetSettings], tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.touch()
    flags = ["--policy", "edf", "--tenants", str(tenants), "--max-num-seqs", "9", "--json"]
    result = CliRunner().invoke(commands, ["doctor", *flags])
    assert result.exit_code == 0, result.output
    (settings,) = asked
    assert settings.gateway_options["policy"] == "edf"
    assert settings.gateway_options["tenants"] == str(tenants)
    assert settings.worker_options["max-num-seqs"] == 9


@pytest.mark.parametrize("flag", ["--tenants", "--api-keys", "--tls-dir"])
def test_a_file_that_is_not_there_is_refused(asked: list[FleetSettings], flag: str) -> None:
    result = CliRunner().invoke(commands, ["doctor", flag, "nowhere"])
    assert result.exit_code == 2
    assert "does not exist" in result.output
    assert not asked
