"""Tasks for the simulator, and what it answers."""

from __future__ import annotations

from collections import Counter

import pytest

from tandem.bench.distribution import Distribution
from tandem.bench.open_loop import OpenRun
from tandem.bench.outcome import Objective, Outcome
from tandem.bench.simulated_arms import SimulationTask, run_from_json, run_to_json
from tandem.bench.subject import MixLoad, PoissonLoop
from tandem.core.errors import ConfigError
from tandem.simulation.tasks import answer

LOAD = MixLoad("chat", 0.1, 3, range(256), "alone")
LOOP = PoissonLoop(100.0, 0.1, 0.2, seed=3)
TASKS = [
    SimulationTask("mock:h100", "1p1d+local-prefill=off", LOAD, num_requests=2),
    SimulationTask("mock:h100", "colocated:2", LOAD, loop=LOOP, loosest={"": Objective(1.0, 0.1)}),
]


@pytest.mark.parametrize("task", TASKS)
def test_tasks_come_as_they_were_sent(task: SimulationTask) -> None:
    assert SimulationTask.from_json(task.to_json()) == task


def test_runs_come_as_they_were_sent() -> None:
    outcomes = [Outcome(9, 4, 0.2, 0.01), Outcome(9, 4, None, None, problem="refused")]
    run = OpenRun(outcomes, Distribution.of([0.01, 0.02, 0.01]), 0.0)
    back = run_from_json(run_to_json(run))
    assert back.outcomes == outcomes
    assert back.itl.to_json() == run.itl.to_json()


def test_each_task_is_worked_out() -> None:
    alone, open_loop = (run_from_json(answer(task.to_json())).outcomes for task in TASKS)
    assert len(alone) == 2
    assert len(open_loop) > 5
    assert not any(each.problem for each in (*alone, *open_loop))


def test_each_tenant_has_as_many_requests_alone() -> None:
    load = MixLoad("tenants", 0.05, 3, range(256), "alone")
    task = SimulationTask("mock:h100", "1p1d", load, num_requests=2)
    served = run_from_json(answer(task.to_json())).outcomes
    tenants = Counter(each.tenant for each in served)
    assert tenants == {"chat": 2, "conversation": 2, "code": 2, "long-prompts": 2}


def test_a_task_that_cannot_be_worked_out_is_refused_in_words() -> None:
    wrong = SimulationTask("mock:h100", "1p1d+policy=worst-first", LOAD, num_requests=1)
    with pytest.raises(ConfigError, match="worst-first"):
        run_from_json(answer(wrong.to_json()))
