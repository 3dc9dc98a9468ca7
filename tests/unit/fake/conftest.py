"""What the tests of the fake engine share. The factories are fixtures, so that tests of any folder
layout find them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tandem.core.plan import SampleSpec, SequenceSlice
from tandem.core.sampling_params import SamplingParams
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.fake.profiles import parse_profile
from tandem.engine.protocols import ModelInfo

MODEL = ModelInfo("mock", "0" * 64, 2**31, 1024, frozenset({2}), "fake")
GREEDY = SamplingParams(max_tokens=100, seed=0, temperature=0.0)


class ManualClock:
    """Stands still, except that sleeping ends at once with the time that was asked for."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep_until(self, when: float) -> None:
        self.sleeps.append(when)
        self.time = max(self.time, when)


class SleeplessClock(ManualClock):
    def sleep_until(self, when: float) -> None:
        raise AssertionError(f"slept until {when}")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sleepless() -> SleeplessClock:
    return SleeplessClock()


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., FakeEngine]:
    """Build an engine, with any argument given in place of the default. Its outputs come from a
    range so wide that two different digests hardly ever give the same token."""

    def make(**given) -> FakeEngine:
        defaults = {
            "profile": parse_profile("zero"),
            "block_size": 4,
            "num_blocks": 64,
            "output_token_ids": (0, MODEL.vocab_size),
            "clock": SleeplessClock(),
        }
        return FakeEngine(given.pop("model", MODEL), **(defaults | given))

    return make


@pytest.fixture(scope="session")
def make_slice() -> Callable[..., SequenceSlice]:
    """Build a slice; it samples greedily unless told otherwise."""

    def make(
        token_ids: Sequence[int],
        block_table: Sequence[int],
        *,
        start: int = 0,
        sequence_id: int = 0,
        params: SamplingParams | None = GREEDY,
    ) -> SequenceSlice:
        sample = SampleSpec(params) if params else None
        return SequenceSlice(sequence_id, token_ids, start, block_table, sample)

    return make
