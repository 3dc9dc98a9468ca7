"""An engine whose steps stall, fail, or end the process."""

from __future__ import annotations

import time

from tandem.core.plan import StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.protocols import Engine, KVPool, LayerHook, ModelInfo, StepHandle
from tandem.faults.injector import FaultInjector, end_at_once
from tandem.faults.plan import FaultName


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
        return self._engine.launch(plan, on_layer)

    def warm_up(self) -> None:
        self._engine.warm_up()

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        self._engine.prepare(sequence_id, params)

    def is_lost(self) -> bool:
        return self._engine.is_lost()

    def close(self) -> None:
        self._engine.close()
