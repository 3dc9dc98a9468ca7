"""Tasks of `tandem.bench.simulated_arms`, worked out."""

from __future__ import annotations

from tandem.bench.arms import parse_arm
from tandem.bench.open_loop import OpenRun
from tandem.bench.simulated_arms import SimulationTask, error_to_json, run_to_json
from tandem.core.errors import TandemError
from tandem.simulation.events import Events
from tandem.simulation.fleet import build_fleet
from tandem.simulation.loads import run_open_loop, serve_alone


def answer(line: str) -> str:
    """What comes of a task, or why nothing can, each a line."""
    try:
        return run_to_json(work_out(SimulationTask.from_json(line)))
    except TandemError as error:
        return error_to_json(error)


def work_out(task: SimulationTask) -> OpenRun:
    """On a fleet of its own. Raises `ConfigError`."""
    fleet = build_fleet(task.device, parse_arm(task.arm), Events())
    if task.loop and task.loosest:
        return run_open_loop(fleet, task.loop, task.load.prompts(), task.loosest)
    return serve_alone(fleet, task.load.prompts_alone(task.num_requests))
