"""How what is said to the operator names the flags."""

from __future__ import annotations

from tandem.core.errors import ConfigError, TandemError


def flag_of(name: str) -> str:
    """A setting's flag: `max_model_len` -> `--max-model-len`."""
    return f"--{name.replace('_', '-')}"


def with_flag(error: TandemError) -> str:
    """The message, behind the flag that is wrong if it is one."""
    if isinstance(error, ConfigError) and error.param:
        return f"{flag_of(error.param)}: {error.message}"
    return error.message
