"""What a `--help` says of a default, it says once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from decode_service.service import DecodeSettings
from gateway.service import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.cli.app import commands
from tandem.cli.fleet_commands import FleetFlags
from tandem.core.errors import ConfigError
from tandem.core.installation import DISTRIBUTION
from tandem.process.settings import ServiceSettings, read_settings
from tandem.worker.settings import WorkerSettings


def options(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Those of a command and of all below it, by how they are written."""
    for each in command.params:
        if each.param_type_name == "option":
            yield f"{path} {each.opts[0]}", each
    for name, child in getattr(command, "commands", {}).items():
        yield from options(child, f"{path} {name}")


@pytest.mark.parametrize("command", [[], ["up"], ["bench", "serve"], ["models", "rm"]])
def test_help_has_a_short_name(command: list[str]) -> None:
    short, long = (CliRunner().invoke(commands, [*command, each]) for each in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output


def test_the_version_is_that_of_the_package() -> None:
    said = CliRunner().invoke(commands, ["--version"])
    assert (said.exit_code, said.output) == (0, f"tandem {version(DISTRIBUTION)}\n")


def test_a_default_that_is_told_in_words_is_not_shown_as_a_value() -> None:
    in_words = {
        name: each
        for name, each in options(get_command(commands), "tandem")
        if "default:" in (each.help or "")
    }
    assert "tandem bench serve --seconds" in in_words
    # None and empty are not shown, but 0 is.
    shown = [
        name
        for name, each in in_words.items()
        if each.show_default and each.default is not None and each.default != ""
    ]
    assert shown == []


def test_a_default_that_a_worker_chooses_is_not_told_as_a_second_one() -> None:
    # Behind each description its value is printed, as `(default: null)`.
    fields = WorkerSettings.model_fields
    assert [name for name in fields if "default:" in (fields[name].description or "")] == []


@pytest.mark.parametrize("settings", [WorkerSettings, GatewaySettings])
def test_what_a_flag_can_be_is_spelled_as_its_twin(
    settings: type[ServiceSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_settings(settings, "tandem", ["--help"])
    choices = re.findall(r"\{(.+?)\}", capsys.readouterr().out)
    assert "info" in ",".join(choices)
    assert not any(map(str.isupper, choices))


def test_quantization_has_one_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ["--port", "1"]
    for name in ("none", "int8", "int4"):
        by_flag = read_settings(WorkerSettings, "tandem", [*port, "--quantization", name])
        monkeypatch.setenv("TANDEM_QUANTIZATION", name)
        by_twin = read_settings(WorkerSettings, "tandem", port)
        assert by_flag.quantization == by_twin.quantization == name
    monkeypatch.setenv("TANDEM_QUANTIZATION", "INT4")
    for flags in ([], ["--quantization", "INT4"]):
        with pytest.raises(ConfigError, match="should be 'none', 'int8' or 'int4'"):
            read_settings(WorkerSettings, "tandem", [*port, *flags])


def test_a_twin_that_is_empty_is_as_good_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in (WorkerSettings, GatewaySettings):
        for name in settings.model_fields.keys() - settings.kept_if_empty:
            monkeypatch.setenv(f"TANDEM_{name.upper()}", "")
    assert read_settings(GatewaySettings, "tandem", []) == GatewaySettings.model_construct()
    unset = WorkerSettings.model_construct(port=1)
    assert read_settings(WorkerSettings, "tandem", ["--port", "1"]) == unset
    with pytest.raises(ConfigError, match="--port: "):
        read_settings(WorkerSettings, "tandem", [])


@pytest.mark.parametrize("settings", [GatewaySettings, PrefillSettings, DecodeSettings])
def test_a_host_may_have_the_brackets_of_an_address(settings: type[ServiceSettings]) -> None:
    read = read_settings(settings, "tandem", ["--host", "[::1]"])
    assert read.model_dump()["host"] == FleetFlags(host="[::1]").settings().host == "::1"


def test_a_level_of_logs_is_known_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "WARNING")
    assert read_settings(GatewaySettings, "tandem", []).log_level == "warning"
    assert read_settings(GatewaySettings, "tandem", ["--log-level", "Info"]).log_level == "info"


def test_all_that_tandem_up_takes_can_be_in_the_environment() -> None:
    up = dict(options(get_command(commands).commands["up"], "up"))  # type: ignore[attr-defined]
    without = [name for name, each in up.items() if not (each.envvar or name == "up --help")]
    assert without == []
