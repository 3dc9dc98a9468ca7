"""The thread that prepares an engine for sequences."""

from __future__ import annotations

import threading

from tandem.core.errors import TandemError
from tandem.core.sampling_params import SamplingParams
from tandem.worker.preparation import Preparation
from tandem.worker.preparer import Preparer


class Panic(BaseException):
    """As an extension's panic is: no `Exception`."""


class Panics:
    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        raise Panic


def test_a_thread_that_ends_is_told() -> None:
    crashes: list[BaseException] = []
    told = threading.Event()

    def crashed(error: BaseException) -> None:
        crashes.append(error)
        told.set()

    def done(preparation: Preparation, error: TandemError | None) -> None:
        raise AssertionError("it is not done")

    preparer = Preparer(Panics(), done, crashed)  # type: ignore[arg-type]
    preparer.start([Preparation(1, SamplingParams(max_tokens=1, seed=0))])
    assert told.wait(10)
    preparer.stop()
    assert [type(each) for each in crashes] == [Panic]
