"""What a step costs on the host besides its kernels, and how long the worker's lock is held.

A decode worker's own plan is driven, without an engine: the next plan is taken (`next_step`),
checked, made into the kernels' inputs, and completed. The check and the inputs beside those that
know nothing of the step before. In a second arm one sequence leaves and another joins at each step.

    .venv/bin/python benchmarks/host.py [--steps 64] [--repeats 3] [--keep]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from performance.engine_tables import HOST, PROMPTS, HostStep, PromptTurns
from performance.notes import Notes, add_keep
from performance.record import this_machine

from decode_service.standing_plan import StandingPlan
from tandem.core.commands import Admit, Remove, Reserve
from tandem.core.kv import KVLayout
from tandem.core.plan import StepResult
from tandem.core.reports import Reserved
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import EndRule, SequenceKey
from tandem.engine.torch.native_inputs import NativeInputBuilder
from tandem.engine.torch.plan_check import PlanCheck
from tandem.simulation.worker import NoMover

T = TypeVar("T")

BLOCK_SIZE = 16
VOCAB_SIZE = 49_152
LAYOUT = KVLayout(
    num_layers=30, num_kv_heads=3, head_dim=64, block_size=BLOCK_SIZE, dtype="float32"
)
MAX_MODEL_LEN = 1 << 18
NUM_BLOCKS = 1 << 18
STEPS = [(1, 500), (8, 500), (32, 500), (32, 2000), (32, 16_000), (128, 2000)]
PROMPT_LENGTHS = [2000, 16_000, 128_000]


class Worker:
    """A decode worker's plan, and sequences that run in it."""

    def __init__(self) -> None:
        self.plan = StandingPlan(
            layout=LAYOUT,
            num_blocks=NUM_BLOCKS,
            max_num_seqs=256,
            end_rule=EndRule(frozenset(), MAX_MODEL_LEN),
            clock_ns=lambda: 0,
            prefix_caching=True,
            mover=NoMover(),
        )
        self.running: list[int] = []
        self._ids = count(1)

    def reserve(self, length: int) -> Reserve:
        sequence_id = next(self._ids)
        prompt = tuple((sequence_id + position) % VOCAB_SIZE for position in range(length))
        params = SamplingParams(max_tokens=MAX_MODEL_LEN, seed=0, temperature=0.0)
        return Reserve(sequence_id, SequenceKey(str(sequence_id)), prompt, BLOCK_SIZE, params)

    def run(self, command: Reserve) -> None:
        """From the reservation to the running sequence, as if its KV had come."""
        self.plan.apply(command)
        self.plan.apply(Admit(command.sequence_id))
        (grant,) = (each for each in self.plan.reports.take() if isinstance(each, Reserved))
        reservation = self.plan.reservation(grant.transfer_id, grant.epoch)
        reservation.finish(7, None)
        self.plan.reservation_complete(reservation)
        self.running.append(command.sequence_id)

    def leave(self) -> None:
        """The oldest goes."""
        self.plan.apply(Remove(self.running.pop(0)))


def new_check() -> PlanCheck:
    return PlanCheck(
        vocab_size=VOCAB_SIZE,
        max_model_len=MAX_MODEL_LEN,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
    )


class Clock:
    """Microseconds, by what took them."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, call: Callable[..., T], *arguments: object) -> T:
        start = time.perf_counter()
        result = call(*arguments)
        self.times[name].append(1e6 * (time.perf_counter() - start))
        return result

    def mean(self, name: str) -> float:
        """Over all steps: a block is added at every sixteenth."""
        return statistics.mean(self.times[name])


def steps(batch: int, context: int, num_steps: int, joins: bool) -> Clock:
    """So many steps of a batch, the first not counted."""
    worker, clock = Worker(), Clock()
    for _ in range(batch):
        worker.run(worker.reserve(context))
    check, inputs = new_check(), NativeInputBuilder(BLOCK_SIZE)
    for number in range(num_steps + 1):
        if number == 1:
            clock = Clock()
        if joins:
            worker.leave()
            worker.run(worker.reserve(context))
        plan = clock.time("plan", worker.plan.next_step)
        assert plan is not None
        fresh_check, fresh_inputs = new_check(), NativeInputBuilder(BLOCK_SIZE)
        clock.time("check anew", fresh_check.check, plan)
        clock.time("check", check.check, plan)
        clock.time("inputs anew", fresh_inputs.build, plan)
        clock.time("inputs", inputs.build, plan)
        result = StepResult((7,) * len(plan.slices))
        clock.time("complete", worker.plan.complete, plan, result, 0, 0)
        worker.plan.reports.take()
    return clock


def host_step(batch: int, context: int, num_steps: int, repeats: int) -> HostStep:
    """Medians over the repeats, in turn."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for joins in (False, True):
            clock = steps(batch, context, num_steps, joins)
            for name in clock.times:
                found[f"{name} joins" if joins else name].append(clock.mean(name))
    middle = {name: statistics.median(times) for name, times in found.items()}
    return HostStep(
        batch=batch,
        context=context,
        plan_us=middle["plan"],
        check_anew_us=middle["check anew"],
        check_us=middle["check"],
        check_joins_us=middle["check joins"],
        inputs_anew_us=middle["inputs anew"],
        inputs_us=middle["inputs"],
        inputs_joins_us=middle["inputs joins"],
        complete_us=middle["complete"],
    )


def prompt_turns(length: int, repeats: int) -> PromptTurns:
    """A prompt that a decode worker reserves room for, and publishes when its KV has come: with
    its hashes worked out before, and without."""
    ahead, turns, before, now = [], [], [], []
    for _ in range(repeats):
        worker, clock = Worker(), Clock()
        other, command = worker.reserve(length), worker.reserve(length)
        clock.time("before", worker.run, other)
        hashing = worker.plan.hashing(command)
        while clock.time("turn", next, hashing, command) is not command:
            pass
        clock.time("now", worker.run, command)
        ahead.append(sum(clock.times["turn"]))
        turns.append(max(clock.times["turn"]))
        before += clock.times["before"]
        now += clock.times["now"]
    times = (ahead, turns, before, now)
    return PromptTurns(length, *(statistics.median(each) / 1e3 for each in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    add_keep(parser)
    arguments = parser.parse_args()
    notes = Notes(arguments, this_machine(), f"medians of {arguments.repeats}")
    notes.table(HOST, (host_step(*each, arguments.steps, arguments.repeats) for each in STEPS))
    notes.table(PROMPTS, (prompt_turns(each, arguments.repeats) for each in PROMPT_LENGTHS))


if __name__ == "__main__":
    main()
