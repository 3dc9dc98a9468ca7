"""What the decode loop costs besides the engine: processor time of all processes, per step.

Starts `tandem up` on mock GPUs and lets a batch of streams run over HTTP. Of a while in their midst
it takes the processor time of the gateway and the workers: commands, the merge, reports,
detokenising, server-sent events, heartbeats, timelines. The engines are fake; what processor time
the decode worker's needs all the same is measured alone, in this process, and shown apart. The
client, which runs here, is not counted.

It runs twice: on a GPU without cost (`zero`), where the loop never rests, and at the pace of an
`h100`, whose steps last milliseconds. There each step finds cold caches and sleeping threads, and
costs more.

    .venv/bin/python benchmarks/loop.py [--batches 1 16 128] [--profiles zero h100] [--seconds 4]
        [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from itertools import product

from batch_streams import Sample, max_tokens, running_batch
from performance.fleet_tables import LOOP, LoopStep
from performance.notes import Notes, add_keep
from performance.record import this_machine
from processes import ROLES

from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import ModelInfo
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.fake.profiles import parse_profile


async def measure(batch: int, profile: str, seconds: float, topology: str) -> tuple[Sample, Sample]:
    async with running_batch(batch, profile, topology) as running:
        before = running.sample()
        await asyncio.sleep(seconds)
        return before, running.sample()


def engine_s(batch: int, profile: str, num_steps: int = 200) -> float:
    """Processor seconds of a fake engine alone, for one decode step of a batch."""
    engine = FakeEngine(
        ModelInfo("loop", "", 256, 131072, frozenset(), "fake"),
        profile=parse_profile(profile),
        block_size=16,
        num_blocks=batch * 64,
        output_token_ids=(0, 256),
        verify="incremental",
    )
    spec = SampleSpec(SamplingParams(max_tokens=max_tokens(batch), seed=0))

    def plan(number: int, start: int, tokens: int) -> StepPlan:
        return StepPlan(
            number,
            tuple(
                SequenceSlice(row, [1] * tokens, start, range(row * 64, row * 64 + 64), spec)
                for row in range(batch)
            ),
        )

    engine.launch(plan(0, 0, 100)).result()
    start = time.process_time()
    for step in range(num_steps):
        engine.launch(plan(step + 1, 100 + step, 1)).result()
    return (time.process_time() - start) / num_steps


async def step(batch: int, profile: str, args: argparse.Namespace) -> LoopStep:
    """Medians over the runs."""
    runs = [await measure(batch, profile, args.seconds, args.topology) for _ in range(args.runs)]

    def median(of: Callable[[Sample], float], per: Callable[[Sample], float]) -> float:
        return statistics.median(
            (of(after) - of(before)) / (per(after) - per(before)) for before, after in runs
        )

    def cpu_s(role: str) -> Callable[[Sample], float]:
        return lambda sample: sample.cpu_s.get(role, 0.0)

    def steps(sample: Sample) -> float:
        return sample.step

    def chunks(sample: Sample) -> float:
        return sample.num_events

    gateway, prefill, decode = (1e3 * median(cpu_s(role), steps) for role in ROLES.values())
    return LoopStep(
        profile=profile,
        batch=batch,
        gateway_ms=gateway,
        prefill_ms=prefill,
        decode_ms=decode,
        engine_ms=1e3 * engine_s(batch, profile),
        steps_per_s=median(steps, lambda sample: sample.at_s),
        chunks_per_step=median(chunks, steps),
        chunks_per_s=median(chunks, cpu_s("gateway")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--profiles", nargs="+", default=["zero", "h100"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--topology", default="1p1d")
    add_keep(parser)
    args = parser.parse_args()
    settings = f"{args.topology} on mock GPUs, medians of {args.runs} runs of {args.seconds:g} s"
    notes = Notes(args, this_machine(), settings)
    cases = product(args.profiles, args.batches)
    notes.table(LOOP, (asyncio.run(step(batch, profile, args)) for profile, batch in cases))


if __name__ == "__main__":
    main()
