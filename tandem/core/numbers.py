"""Numbers that somebody typed."""

from __future__ import annotations

from math import isfinite

from tandem.core.errors import ConfigError


def require_positive(flag: str, value: float, *, or_zero: bool = False) -> None:
    """Raises `ConfigError` if it is no number, or infinite, or not more than 0. Where `or_zero`
    is said, that is one as well."""
    if not isfinite(value) or value < 0 or (value == 0 and not or_zero):
        least = "0 or more" if or_zero else "more than 0"
        raise ConfigError(f"--{flag} is a number, {least}", param=flag.replace("-", "_"))
