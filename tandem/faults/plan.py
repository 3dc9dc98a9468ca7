"""Which faults there are, and when each strikes: pure, and the same for the same seed.

Faults are written `NAME:KEY=VALUE,...;NAME:...`, as in `kv.frame.corrupt:every=7;engine.stall:
rate=0.01,seed=3,seconds=0.5`. A name stands for a kind of occasion (a frame that is sent, a step
that is launched, a message that goes to the controller) and for what happens at some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from random import Random
from typing import Any

from tandem.core.errors import ConfigError


class FaultName(StrEnum):
    """What can happen."""

    FRAME_CORRUPT = "kv.frame.corrupt"
    FRAME_TRUNCATE = "kv.frame.truncate"
    FRAME_DROP = "kv.frame.drop"
    FRAME_DUPLICATE = "kv.frame.duplicate"
    FRAME_REORDER = "kv.frame.reorder"
    FRAME_DELAY = "kv.frame.delay"
    FRAME_WRONG_LAYER = "kv.frame.wrong-layer"
    FRAME_WRONG_SHAPE = "kv.frame.wrong-shape"
    FRAME_WRONG_DTYPE = "kv.frame.wrong-dtype"
    FRAME_WRONG_TRANSFER = "kv.frame.wrong-transfer"
    FRAME_WRONG_EPOCH = "kv.frame.wrong-epoch"
    FRAME_KILL = "kv.frame.kill"
    STREAM_BREAK = "kv.stream.break"
    ACK_DELAY = "kv.ack.delay"
    ENGINE_STALL = "engine.stall"
    ENGINE_FAIL = "engine.fail"
    ENGINE_KILL = "engine.kill"
    ENGINE_WRONG = "engine.wrong"
    REPORTS_DELAY = "reports.delay"
    REPORTS_BREAK = "reports.break"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. Of its occasions the first `skip` pass; of the others each `every`-th is
    struck, and of these a share of `rate`, drawn from `seed`; `times` at the most, if not 0. What
    takes time takes `seconds`."""

    name: FaultName
    skip: int = 0
    every: int = 1
    rate: float = 1.0
    seed: int = 0
    times: int = 0
    seconds: float = 0.1


# What each is read as.
_OPTIONS: dict[str, type[Any]] = {
    each.name: type(each.default) for each in fields(Fault) if each.name != "name"
}


@dataclass(slots=True)
class FaultSchedule:
    """A fault, and how many of its occasions there were."""

    fault: Fault
    num_occasions: int = 0
    num_strikes: int = 0
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = Random(f"{self.fault.name} {self.fault.seed}")

    def strikes(self) -> bool:
        """Whether the fault strikes at the occasion that is there now."""
        fault = self.fault
        self.num_occasions += 1
        number = self.num_occasions - fault.skip
        if number <= 0 or number % fault.every or 0 < fault.times <= self.num_strikes:
            return False
        if self._random.random() >= fault.rate:
            return False
        self.num_strikes += 1
        return True


def parse_faults(text: str) -> list[Fault]:
    """Raises `ConfigError`, naming what is wrong."""
    return [_parse_fault(part.strip()) for part in text.split(";") if part.strip()]


def _parse_fault(text: str) -> Fault:
    name, _, options = text.partition(":")
    if name not in list(FaultName):
        names = ", ".join(FaultName)
        raise ConfigError(f"there is no fault {name!r}; there are {names}", param="faults")
    values = dict(map(_parse_option, filter(None, options.split(","))))
    fault = Fault(FaultName(name), **values)
    if fault.every < 1 or fault.seconds < 0 or not 0 <= fault.rate <= 1:
        raise ConfigError(f"fault {text!r} can never be", param="faults")
    return fault


def _parse_option(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if key not in _OPTIONS:
        raise ConfigError(
            f"{key!r} says nothing of a fault: {', '.join(_OPTIONS)} do", param="faults"
        )
    try:
        return key, _OPTIONS[key](value)
    except ValueError:
        raise ConfigError(f"{value!r} is no number, as {key} must be", param="faults") from None
