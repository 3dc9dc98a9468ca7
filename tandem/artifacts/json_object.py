"""Typed reading of JSON objects that an operator or a model's author wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem.core.errors import ConfigError

# Python's objects take some ten times as much.
MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object and the name by which errors call it (a file's path, or `config.json`).

    Every getter raises `ConfigError` naming the field when the value is of another type, or is
    missing and has no default. A field that is absent and one that is null are the same.
    """

    data: Mapping[str, object]
    source: str

    def integer(self, field: str) -> int:
        value = self.data.get(field)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(field, "an integer")
        return value

    def positive(self, field: str, default: int | None = None) -> int:
        if default is not None and not self.has(field):
            return default
        value = self.integer(field)
        if value < 1:
            raise self.wrong(field, "a positive integer")
        return value

    def positive_number(self, field: str, default: float | None = None) -> float:
        if default is not None and not self.has(field):
            return default
        value = self.data.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(field, "a positive number")
        if not 0 < value <= sys.float_info.max:  # NaN and numbers that are no float as well
            raise self.wrong(field, "a positive number")
        return float(value)

    def text(self, field: str) -> str:
        value = self.data.get(field)
        if not isinstance(value, str):
            raise self.wrong(field, "a string")
        return value

    def flag(self, field: str, default: bool = False) -> bool:
        value = self.data.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value

    def object(self, field: str) -> JsonObject:
        value = self.data.get(field)
        if not isinstance(value, dict):
            raise self.wrong(field, "an object")
        return JsonObject(value, f"{self.source}: {field}")

    def integers(self, field: str) -> tuple[int, ...]:
        """A list of non-negative integers, or one alone; absent is the empty tuple."""
        value = self.data.get(field)
        if value is None:
            return ()
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and type(item) is int and item >= 0 for item in items):
            raise self.wrong(field, "a non-negative integer or a list of them")
        return tuple(items)

    def texts(self, field: str) -> list[str]:
        value = self.data.get(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(field, "a list of strings")
        return value

    def numbers(self, field: str) -> list[float]:
        value = self.data.get(field)
        if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
            raise self.wrong(field, "a list of numbers")
        return value

    def has(self, field: str) -> bool:
        return self.data.get(field) is not None

    def wrong(self, field: str, expected: str) -> ConfigError:
        """The error for a field that is not what it should be."""
        what = f"is {self.data[field]!r:.80}" if self.has(field) else "is missing"
        return ConfigError(f"{self.source}: {field!r} {what}, expected {expected}")


def read_json_object(path: Path) -> JsonObject:
    """Read a file that holds one JSON object. Raises `ConfigError`."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConfigError(f"{path} is too large for what it should be: fetch it again")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: a model folder must hold it") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: fetch it again") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return JsonObject(data, str(path))
