"""One way of serving a model that is measured against the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class NotInstalled(Exception):
    """A peer is not here; the message says what is missing."""


@dataclass(frozen=True)
class Conversion:
    """Makes the model's weights into what a server reads, once."""

    command: tuple[str, ...]
    target: Path


@dataclass(frozen=True)
class Arm:
    """A server's command, in which `{port}` is its port. `model`: as requests call it.

    Without a `ready_path` it is no server: the command runs the workloads itself and prints a line
    of JSON for each.
    """

    name: str
    command: tuple[str, ...]
    ready_path: str = ""
    model: str = "default"
    env: Mapping[str, str] = field(default_factory=dict)
    conversion: Conversion | None = None
    start_timeout_s: float = 60.0


def program(environment: Path, name: str) -> str:
    """A program in a peer's environment. Raises `NotInstalled`."""
    path = environment / "bin" / name
    if not path.exists():
        raise NotInstalled(f"{path} is missing")
    return str(path)
