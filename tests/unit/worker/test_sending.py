"""The calls of a prefill worker's state to its KV sender, on their way to the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from prefill_service.sending import LoopTransfers
from tandem.core.plan import SequenceSlice, StepPlan

SLICE = SequenceSlice(sequence_id=1, token_ids=(5,), start=0, block_table=(0,), sample=None)
PLAN = StepPlan(1, (SLICE,))


class NoSender:
    """A sender that takes notes, or breaks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error = error

    def get(self, sequence_id: int) -> NoSender:
        return self

    def start(self, *args: object) -> None:
        self._note("start", *args)

    def layer_done(self, *args: object) -> None:
        self._note("layer done", *args)

    def finish(self, *args: object) -> None:
        self._note("finish", *args)

    def abort(self, *args: object) -> None:
        self._note("abort", *args)

    def _note(self, *call: object) -> None:
        if self.error:
            raise self.error
        self.calls.append((threading.current_thread().name, *call))


CALLS = {
    "start": lambda transfers: transfers.start(1, "there", "blocks"),
    "layer": lambda transfers: transfers.layer_hook(PLAN)(0),
    "finish": lambda transfers: transfers.finish(1, 42, None, 7),
    "abort": lambda transfers: transfers.abort(1),
}


async def test_calls_of_another_thread_come_to_the_loop_in_their_order() -> None:
    sender, loop = NoSender(), asyncio.get_running_loop()
    transfers = LoopTransfers(sender, loop, pytest.fail)
    await asyncio.to_thread(lambda: [call(transfers) for call in CALLS.values()])
    await asyncio.sleep(0)
    here = threading.current_thread().name
    assert sender.calls == [
        (here, "start", 1, "there", "blocks"),
        (here, "layer done", 0, 1),
        (here, "finish", 42, None, 7),
        (here, "abort", 1),
    ]


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_fails_there_is_told_to_the_worker(call: str) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    error, crashes = AssertionError("out of order"), list[BaseException]()
    CALLS[call](LoopTransfers(NoSender(error), loop, crashes.append))
    await asyncio.sleep(0)
    assert crashes == [error]
