"""Strikes with the faults that a worker was started with."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from typing import NoReturn, TypeVar

import structlog

from tandem.core.errors import ConfigError, Unavailable
from tandem.faults.plan import Fault, FaultName, FaultSchedule, parse_faults

log = structlog.get_logger(__name__)

MessageT = TypeVar("MessageT")


class FaultInjector:
    """Asked at each occasion, by name. A name's occasions all come from one thread."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._schedules = {fault.name: FaultSchedule(fault) for fault in faults}

    def strike(self, name: FaultName) -> Fault | None:
        """The fault of this name, if it strikes now. Each strike is logged: what is counted as
        injected can be held against what was noticed."""
        schedule = self._schedules.get(name)
        if schedule is None or not schedule.strikes():
            return None
        log.warning("fault injected", fault=str(name), number=schedule.num_strikes)
        return schedule.fault

    async def reports(self, messages: AsyncIterator[MessageT]) -> AsyncIterator[MessageT]:
        """A worker's messages to its controller, late, or up to where their stream breaks."""
        async for message in messages:
            if fault := self.strike(FaultName.REPORTS_DELAY):
                await asyncio.sleep(fault.seconds)
            if self.strike(FaultName.REPORTS_BREAK):
                raise Unavailable("a fault: the command stream breaks")
            yield message


def injector_of(faults: str, allowed: bool) -> FaultInjector | None:
    """What injects `faults`; None if there are none. Raises `ConfigError` for those that are not
    known, and for any unless they are allowed."""
    if not faults:
        return None
    if not allowed:
        raise ConfigError(
            "this worker was told to damage itself: not without --allow-faults", param="faults"
        )
    log.warning("faults will be injected", faults=faults)
    return FaultInjector(parse_faults(faults))


def end_at_once() -> NoReturn:
    """End this process as a crash would: without a word to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")
