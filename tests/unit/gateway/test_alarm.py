"""A call at a time that may be set anew."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count
from math import inf

from gateway.alarm import Alarm

NOW_S = 5.0


def two_alarms() -> tuple[asyncio.Queue[str], Alarm, Alarm]:
    """They note in the queue that they ring."""
    rings = asyncio.Queue[str]()
    alarms = (Alarm(lambda: NOW_S, partial(rings.put_nowait, name)) for name in ("it", "other"))
    return rings, *alarms


async def test_it_rings_when_it_was_last_said_and_once() -> None:
    rings, alarm, other = two_alarms()
    alarm.set(NOW_S)
    alarm.set(NOW_S + 1e6)
    other.set(NOW_S)
    assert await asyncio.wait_for(rings.get(), 10) == "other"
    alarm.set(NOW_S - 1)
    assert await asyncio.wait_for(rings.get(), 10) == "it"
    assert alarm.at_s == inf


async def test_what_was_called_off_does_not_ring() -> None:
    rings, alarm, other = two_alarms()
    for each in (alarm, other):
        each.set(NOW_S)
    alarm.set(inf)
    assert await asyncio.wait_for(rings.get(), 10) == "other"
    assert rings.empty()


async def test_it_may_be_set_again_when_it_rings() -> None:
    rings, numbers = asyncio.Queue[int](), count()

    def ring() -> None:
        rings.put_nowait(next(numbers))
        alarm.set(NOW_S)

    alarm = Alarm(lambda: NOW_S, ring)
    alarm.set(NOW_S)
    assert [await asyncio.wait_for(rings.get(), 10) for _ in range(3)] == [0, 1, 2]
    alarm.set(inf)
