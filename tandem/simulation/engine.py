"""An engine that takes a step's time and computes nothing."""

from __future__ import annotations

from collections.abc import Callable

from tandem.core.plan import StepPlan, StepResult
from tandem.engine.fake.profile import Profile
from tandem.engine.protocols import LayerHook
from tandem.simulation.events import Events

TOKEN_ID = 1
"""Of whatever is sampled: no answer's end depends on it."""


class VirtualEngine:
    """One step at a time, by the roofline of a profile, as the fake engine's are."""

    def __init__(self, events: Events, profile: Profile) -> None:
        self._events = events
        self._profile = profile

    def launch(
        self,
        plan: StepPlan,
        on_layer: LayerHook | None,
        on_done: Callable[[StepPlan, StepResult, float], None],
    ) -> None:
        """Start a step. Each layer's KV is there when its share of the step's time is over;
        `on_done` is called with when the step began."""
        start_s, step_s = self._events.now_s, self._profile.step_s(plan)
        if on_layer:
            num_layers = self._profile.model.num_layers
            for layer in range(num_layers):
                self._events.after(step_s * ((layer + 1) / num_layers), on_layer, layer)
        tokens = tuple(TOKEN_ID if each.sample is not None else None for each in plan.slices)
        self._events.after(step_s, on_done, plan, StepResult(tokens), start_s)
