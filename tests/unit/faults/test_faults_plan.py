"""When faults strike, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import ConfigError
from tandem.faults.injector import injector_of
from tandem.faults.plan import Fault, FaultName, FaultSchedule, parse_faults

FAULTS = st.builds(
    Fault,
    st.sampled_from(FaultName),
    skip=st.integers(0, 20),
    every=st.integers(1, 9),
    rate=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 99),
    times=st.integers(0, 5),
    seconds=st.sampled_from([0.0, 0.25, 10.0]),
)


def written(fault: Fault) -> str:
    options = ("skip", "every", "rate", "seed", "times", "seconds")
    return f"{fault.name}:" + ",".join(f"{key}={getattr(fault, key)}" for key in options)


@given(st.lists(FAULTS, max_size=4))
def test_what_is_written_is_what_is_read(faults: list[Fault]) -> None:
    assert parse_faults("; ".join(map(written, faults))) == faults


@given(FAULTS, st.integers(0, 100))
def test_strikes_are_where_the_fault_says_and_the_same_each_time(
    fault: Fault, num_occasions: int
) -> None:
    schedules = FaultSchedule(fault), FaultSchedule(fault)
    strikes = [[each.strikes() for _ in range(num_occasions)] for each in schedules]
    assert strikes[0] == strikes[1]
    struck = [number for number, strike in enumerate(strikes[0], start=1) if strike]
    assert all(number > fault.skip for number in struck)
    assert all((number - fault.skip) % fault.every == 0 for number in struck)
    assert len(struck) == schedules[0].num_strikes
    due = max(0, num_occasions - fault.skip) // fault.every
    at_most = min(due, fault.times) if fault.times else due
    assert len(struck) <= at_most
    assert fault.rate > 0 or not struck
    assert fault.rate < 1 or len(struck) == at_most


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kv.frame.eat", "kv.frame.corrupt"),
        ("engine.stall:second=1", "second"),
        ("engine.stall:seconds=soon", "soon"),
        ("engine.stall:every=0", "never"),
        ("engine.stall:rate=2", "never"),
    ],
)
def test_what_is_no_fault_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        injector_of(text, allowed=True)


def test_faults_are_refused_unless_they_are_allowed() -> None:
    with pytest.raises(ConfigError, match="--allow-faults"):
        injector_of("engine.stall", allowed=False)


def test_without_faults_there_is_nothing_to_ask() -> None:
    assert injector_of("", allowed=True) is None
