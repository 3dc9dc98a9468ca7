"""What a `--help` says of a default, it says once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.cli.app import commands
from tandem.cli.fleet_commands import FleetFlags
from tandem.core.errors import ConfigError
from tandem.core.installation import DISTRIBUTION
from tandem.process.settings import ServiceSettings, read_settings
from tandem.worker.settings import WorkerSettings

SERVICES = [GatewaySettings, PrefillSettings, DecodeSettings]


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


@pytest.mark.parametrize("command", [["keys"], ["certs"], ["bench", "serve"], ["bench", "goodput"]])
def test_help_breaks_its_lines_where_the_terminal_ends(command: list[str]) -> None:
    said = CliRunner().invoke(commands, [*command, "--help"], env={"COLUMNS": "80"}).output
    prose, *_ = said.partition("\u256d")
    lines = [each.strip() for each in prose.splitlines()]
    for line, following in itertools.pairwise(lines):
        word, *_ = following.split(" ")
        assert not (line and word) or len(f" {line} {word}") > 78


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


@pytest.fixture(params=SERVICES)
def service_help(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """What a service says of its flags, a line each."""
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        read_settings(request.param, "tandem", ["--help"])
    return capsys.readouterr().out


def test_what_a_flag_can_be_is_spelled_as_its_twin(service_help: str) -> None:
    choices = re.findall(r"\{(.+?)\}", service_help)
    assert "info" in ",".join(choices)
    assert not any(map(str.isupper, choices))


def test_a_service_tells_of_its_flags_twins(service_help: str) -> None:
    assert "all have twins in the environment, such as TANDEM_" in service_help


def test_a_flag_is_told_in_no_terms_of_python(service_help: str) -> None:
    words = re.findall(r"\w+", service_help)
    assert not {"null", "None", "Path", "SecretStr"} & set(words)
    assert "--tls-dir path" in service_help
    assert "(default: )" not in service_help


def test_each_flag_of_a_service_is_told_with_one_default_at_the_most(service_help: str) -> None:
    _, _, told = service_help.partition("options:")
    lines = re.split(r"\n  (?=-)", told)[1:]
    texts = [re.split(r"\s{2,}", line, maxsplit=1)[1] for line in lines]
    assert len(texts) > 20
    assert [text for text in texts if not text or text.startswith("(default")] == []
    assert [text for text in texts if text.count("(default:") > 1] == []


def test_an_unset_flag_can_still_be_said_to_be() -> None:
    read = read_settings(DecodeSettings, "tandem", ["--num-blocks", "null"])
    assert read.num_blocks is None


def test_a_worker_names_the_models_that_tandem_up_names() -> None:
    up = dict(options(get_command(commands).commands["up"], "up"))  # type: ignore[attr-defined]
    assert WorkerSettings.model_fields["model"].description == up["up --model"].help


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


@pytest.mark.parametrize("settings", SERVICES)
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
