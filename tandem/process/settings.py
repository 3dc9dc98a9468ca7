"""Settings from flags and their `TANDEM_` environment twins; a flag beats its twin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from tandem.core.address import without_brackets
from tandem.core.errors import ConfigError
from tandem.process.flags import flag_of
from tandem.process.logs import LogFormat, LogLevel
from tandem.process.service_help import ServiceHelp
from tandem.wire.tls import Identity, Role

# With what hanging steps take, no more than the 30 s that Kubernetes gives a container by default;
# compose is told to give 40.
DRAIN_TIMEOUT_S = 25.0
MAX_DRAIN_TIMEOUT_S = 86_400.0

# What a server listens on.
Host = Annotated[str, AfterValidator(without_brackets)]


class ServiceSettings(BaseSettings):
    """What every service is started with."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_", cli_kebab_case=True, cli_implicit_flags=True, extra="ignore"
    )

    # Those that are not as good as unset if they are empty. What says who gets in was to be set by
    # somebody, and was not: that ends the process, and opens nothing.
    kept_if_empty: ClassVar[frozenset[str]] = frozenset({"tls_dir"})

    log_level: Annotated[LogLevel, BeforeValidator(str.lower)] = Field(
        "info", description="severity from which on lines are logged"
    )
    log_format: LogFormat = Field(
        "console", description="how the log is written; json: an object a line"
    )
    drain_timeout: float = Field(
        DRAIN_TIMEOUT_S,
        ge=0,
        le=MAX_DRAIN_TIMEOUT_S,
        description="seconds after SIGTERM in which what is under way is finished or handed over; "
        "SIGINT, or a second signal, ends at once",
    )
    tls_dir: Path | None = Field(
        None,
        description="what `tandem certs` made: gateway and workers then talk by mutual TLS alone",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _use_default_if_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """What is passed on without a value, as by compose, is as good as unset."""
        if value != "":
            return value
        field = cls.model_fields[str(info.field_name)]
        if info.field_name in cls.kept_if_empty:
            if field.annotation == Path | None:  # Of a path it would make this folder.
                raise PydanticCustomError("empty_path", "It is set, and empty: name it or unset it")
            return value
        return value if field.is_required() else field.default

    def read_identity(self, role: Role) -> Identity | None:
        """Who this process is to the others; None without TLS. Raises `ConfigError`."""
        if not self.tls_dir:
            return None
        # Here: what reads certificates takes long to import.
        from tandem.process.identity import read_identity

        return read_identity(self.tls_dir, role)


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def parse_settings(cls: type[SettingsT], prog: str) -> SettingsT:
    """The settings that this process was started with; exits with status 2, naming each one that
    is wrong."""
    try:
        return read_settings(cls, prog, sys.argv[1:])
    except ConfigError as error:
        sys.stderr.write("".join(f"error: {line}\n" for line in error.message.splitlines()))
        sys.exit(2)


def read_settings(cls: type[SettingsT], prog: str, flags: Sequence[str]) -> SettingsT:
    """The settings that these flags, and the environment, ask for. Raises `ConfigError`, with a
    line for each one that is wrong."""
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            cls,
            cli_prog_name=prog,
            cli_parse_args=list(flags),
            cli_hide_none_type=True,
            formatter_class=ServiceHelp,
        )
        return cls(_cli_settings_source=source)
    except ValidationError as error:
        lines = [
            f"{flag_of('.'.join(map(str, each['loc'])))}: {each['msg']}" for each in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None
