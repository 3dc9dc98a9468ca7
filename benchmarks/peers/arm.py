"""One way of serving a model that is measured against the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.bench.server import ServerSpec


class NotInstalled(Exception):
    """A peer is not here; the message says what is missing."""


@dataclass(frozen=True)
class Conversion:
    """Makes the model's weights into what a server reads, once."""

    command: tuple[str, ...]
    target: Path


@dataclass(frozen=True)
class Arm(ServerSpec):
    """Without a `ready_path` it is no server: the command runs the workloads itself and prints a
    line of JSON for each."""

    conversions: tuple[Conversion, ...] = ()


def name_of(name: str, int4: bool) -> str:
    """An arm's, which says what its weights are."""
    return f"{name}, int4" if int4 else name


def program(environment: Path, name: str) -> str:
    """A program in a peer's environment. Raises `NotInstalled`."""
    path = environment / "bin" / name
    if not path.exists():
        raise NotInstalled(f"{path} is missing")
    return str(path)
