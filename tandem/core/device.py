"""Devices as the command line writes them: `cpu`, `cpu:0-3`, `cpu:1/2`, `cuda:0`, `mock:h100`."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CpuDevice:
    """CPU cores. `cores` empty means all that the process may use; with `part` (k, n), the k-th of
    the n parts that these are cut into, whichever they are where it runs."""

    cores: tuple[int, ...] = ()
    part: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.part:
            return "cpu:{}/{}".format(*self.part)
        return f"cpu:{format_cores(self.cores)}" if self.cores else "cpu"


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One NVIDIA GPU."""

    index: int

    def __str__(self) -> str:
        return f"cuda:{self.index}"


@dataclass(frozen=True, slots=True)
class MockDevice:
    """A fake engine whose timing comes from the named profile."""

    profile: str

    def __str__(self) -> str:
        return f"mock:{self.profile}"


Device = CpuDevice | CudaDevice | MockDevice


def parse_device(text: str) -> Device:
    """Parse a device. Raises `ConfigError` that says what would have been right."""
    kind, _, rest = text.partition(":")
    try:
        match kind:
            case "cpu" if "/" in rest:
                return CpuDevice(part=_part(rest))
            case "cpu":
                return CpuDevice(parse_cores(rest) if rest else ())
            case "cuda":
                return CudaDevice(_natural(rest or "0"))
            case "mock" if rest:
                return MockDevice(rest)
    except ValueError:
        pass
    raise ConfigError(
        f"unknown device {text!r}: write cpu, cpu:0-3, cpu:1/2, cuda:0 or mock:PROFILE",
        param="device",
    )


def parse_cores(text: str) -> tuple[int, ...]:
    """`0-1,4` -> (0, 1, 4). Raises ValueError."""
    cores: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start, stop = _natural(first), _natural(last if dash else first)
        if stop < start:
            raise ValueError(part)
        cores.extend(range(start, stop + 1))
    return tuple(sorted(set(cores)))


def format_cores(cores: tuple[int, ...]) -> str:
    """(0, 1, 4) -> `0-1,4`."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _part(text: str) -> tuple[int, int]:
    """`1/2` -> (1, 2). Raises ValueError."""
    index, _, count = text.partition("/")
    part = _natural(index), _natural(count)
    if not 1 <= part[0] <= part[1]:
        raise ValueError(text)
    return part


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)
