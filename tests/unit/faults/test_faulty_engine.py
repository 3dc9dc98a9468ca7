"""What a faulty engine does to a step."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tandem.core.plan import StepPlan, StepResult
from tandem.engine.protocols import Engine
from tandem.faults.engine import FaultyEngine
from tandem.faults.injector import injector_of

PLAN = StepPlan(1, ())


class Steps:
    """An engine of which every step has these tokens."""

    def __init__(self, *tokens: int | None) -> None:
        self._result = StepResult(tokens)

    def launch(self, plan: StepPlan, on_layer: Any = None) -> Steps:
        return self

    def result(self) -> StepResult:
        return self._result


@pytest.mark.parametrize(
    ("tokens", "wrong"),
    [((4, 5), (5, 5)), ((None, 5, 6), (None, 4, 6)), ((None,), (None,)), ((), ())],
)
def test_a_step_that_is_wrong_differs_in_one_token(
    tokens: tuple[int | None, ...], wrong: tuple[int | None, ...]
) -> None:
    injector = injector_of("engine.wrong:every=2", allowed=True)
    assert injector is not None
    engine = FaultyEngine(cast(Engine, Steps(*tokens)), injector)
    results = [engine.launch(PLAN).result().tokens for _ in range(4)]
    assert results == [tokens, wrong, tokens, wrong]
