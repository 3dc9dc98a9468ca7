"""How near `tandem bench goodput --simulated` is to processes that serve: the same arms, rate and
requests, both ways.

    .venv/bin/python benchmarks/simulated.py [--device mock:h100x10] [--rate 15] [--seconds 2]

Printed are TTFT and TPOT in the model's own milliseconds. On the machine's clock all takes as many
times as long as the device's dilation: enough of it, and the host's own cost hardly counts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tandem.bench.arms import Arm, parse_arm
from tandem.bench.markdown import markdown_table
from tandem.bench.mixes import MIXES, tenants_of
from tandem.bench.outcome import Objective, Outcome, tpots, ttfts
from tandem.bench.percentiles import percentiles
from tandem.bench.served_arms import ServedArms
from tandem.bench.server import cancel_when_told_to_stop
from tandem.bench.simulated_arms import SimulatedArms
from tandem.bench.subject import MixLoad, PoissonLoop, Subjects
from tandem.bench.workload import MOCK_TOKEN_IDS
from tandem.core.device import MockDevice, parse_device
from tandem.engine.fake.profiles import parse_profile

ARMS = "1p1d+local-prefill=off,1p1d,colocated:2+batching=chunked,colocated:2+batching=prefill-first"
NUM_ALONE = 2
# Waits for every request, however late.
PATIENT = Objective(60.0, 1.0)
# A mock device's KV is small, and would all be sent at once, behind the last layer.
FRAME_BYTES = {"TANDEM_MIN_FRAME_BYTES": "1"}


async def measure(subjects: Subjects, arm: Arm, loop: PoissonLoop, load: MixLoad) -> list[str]:
    """A row's times: medians alone, then p50 / p90 of the open loop."""
    async with subjects.serving(arm) as subject:
        alone = await subject.alone(load, NUM_ALONE)
        patient = dict.fromkeys(tenants_of(MIXES[load.workload]), PATIENT)
        run = await subject.at_rate(load, loop, patient)
    return [_times(alone, 50), _times(run.outcomes, 50), _times(run.outcomes, 90)]


def _times(outcomes: list[Outcome], percent: int) -> str:
    """TTFT / TPOT."""
    times = (ttfts(outcomes), tpots(outcomes))
    return " / ".join(f"{percentiles(each, (percent,))[0] * 1e3:.2f}" for each in times)


async def main(args: argparse.Namespace) -> None:
    cancel_when_told_to_stop()
    device = parse_device(args.device)
    assert isinstance(device, MockDevice), "only mock devices can be simulated"
    dilation = parse_profile(device.profile).dilation
    load = MixLoad(args.workload, 1.0, 0, MOCK_TOKEN_IDS, "both")
    flags = ("--device", args.device, "--model", "mock", "--mock-verify", "incremental")
    simulated = SimulatedArms(args.device, (), num_processes=1)
    rows = []
    with TemporaryDirectory(prefix="tandem-simulated-") as logs:
        served = ServedArms(flags, Path(logs), dilation)
        for arm in map(parse_arm, args.arms.split(",")):
            for name, subjects, stretch in (
                ("served", served, dilation),
                ("simulated", simulated, 1.0),
            ):
                loop = PoissonLoop(args.rate, args.warm_up, args.seconds, dilation=stretch)
                rows.append([str(arm), name, *await measure(subjects, arm, loop, load)])
    await simulated.close()
    headings = ("Arm", "", "Alone p50: TTFT / TPOT", "p50", "p90")
    print(markdown_table(headings, rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="mock:h100x10")
    parser.add_argument("--arms", default=ARMS)
    parser.add_argument("--workload", default="long-prompts")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second, model's own")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured, the model's own")
    parser.add_argument("--warm-up", type=float, default=0.75)
    os.environ.update(FRAME_BYTES)
    uvloop.run(main(parser.parse_args()))
