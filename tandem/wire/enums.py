"""Enumerations, off the wire."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from tandem.core.errors import Mismatch

EnumT = TypeVar("EnumT", bound=IntEnum)


def known(kind: type[EnumT], value: int) -> EnumT:
    """Raises `Mismatch` for a value that this build does not know."""
    try:
        return kind(value)
    except ValueError:
        raise Mismatch(f"{kind.__name__} {value} is not known here") from None
