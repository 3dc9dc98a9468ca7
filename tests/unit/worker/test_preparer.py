"""The thread that prepares an engine for sequences."""

from __future__ import annotations

import asyncio

import pytest
from fake_state import RecordedState

from tandem.core.errors import TandemError
from tandem.core.sampling_params import SamplingParams
from tandem.transfer.state_guard import StateGuard
from tandem.worker.preparation import Preparation
from tandem.worker.preparer import Preparer


class Panic(BaseException):
    """As an extension's panic is: no `Exception`."""


class Panics:
    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        raise Panic


async def test_a_thread_that_ends_is_told() -> None:
    guard = StateGuard(asyncio.get_running_loop())
    state = RecordedState()
    preparer = Preparer(Panics(), state, guard)  # type: ignore[arg-type]
    preparer.start([Preparation(1, SamplingParams(max_tokens=1, seed=0))])
    with pytest.raises(TandemError, match="broken: Panic"):
        await asyncio.wait_for(guard.crash, 10)
    preparer.stop()
    assert state.prepared_ones == []
