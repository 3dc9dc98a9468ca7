"""An engine whose steps stall, fail, end the process, or compute wrongly without a word."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from tandem.core.plan import StepPlan, StepResult
from tandem.core.sampling_params import SamplingParams
from tandem.engine.protocols import Engine, KVPool, LayerHook, ModelInfo, StepHandle
from tandem.faults.injector import FaultInjector, end_at_once
from tandem.faults.plan import FaultName


@dataclass(frozen=True, slots=True)
class WrongStep:
    """A step that went well, as far as anybody can tell: the first token that it samples is another
    than the engine's."""

    step: StepHandle

    def result(self) -> StepResult:
        result = self.step.result()
        tokens = list(result.tokens)
        for place, token in enumerate(tokens):
            if token is not None:
                tokens[place] = token ^ 1
                break
        return replace(result, tokens=tuple(tokens))


class FaultyEngine:
    """The `Engine` that it is given, with faults at the launch of a step."""

    def __init__(self, engine: Engine, injector: FaultInjector) -> None:
        self._engine = engine
        self._injector = injector

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    @property
    def pool(self) -> KVPool:
        return self._engine.pool

    @property
    def runs_ahead(self) -> bool:
        return self._engine.runs_ahead

    def launch(self, plan: StepPlan, on_layer: LayerHook | None = None) -> StepHandle:
        if fault := self._injector.strike(FaultName.ENGINE_STALL):
            time.sleep(fault.seconds)
        if self._injector.strike(FaultName.ENGINE_FAIL):
            raise RuntimeError("a fault: the step fails")
        if self._injector.strike(FaultName.ENGINE_KILL):
            end_at_once()
        is_wrong = self._injector.strike(FaultName.ENGINE_WRONG)
        step = self._engine.launch(plan, on_layer)
        return WrongStep(step) if is_wrong else step

    def warm_up(self) -> None:
        self._engine.warm_up()

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        self._engine.prepare(sequence_id, params)

    def use_idle_time(self) -> bool:
        return self._engine.use_idle_time()

    def is_lost(self) -> bool:
        return self._engine.is_lost()

    def close(self) -> None:
        self._engine.close()
