"""What the gateway's decisions cost, by the number of workers and the length of the queue.

Fleets of mock H100s in virtual time (`tandem.simulation`): the gateway's real scheduler, and
workers whose own work is not timed. Timed are a request's arrival and what a worker says, each with
all that is decided then, and both together for each token of the answers. Every worker has the same
load, but in the fleets to which ten times as much comes.

    .venv/bin/python benchmarks/decisions.py [--seconds 10] [--arms colocated 1p1d ...]
"""

from __future__ import annotations

import argparse
import gc
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any

from tandem.bench.answer import Answer
from tandem.bench.arms import parse_arm
from tandem.bench.arrivals import poisson_arrivals
from tandem.bench.markdown import markdown_lines
from tandem.bench.subject import MixLoad
from tandem.simulation.events import Events
from tandem.simulation.fleet import Fleet, build_fleet
from tandem.simulation.gateway import VirtualGateway

DEVICE = "mock:h100"
# Requests a second for each worker.
BUSY, FLOODED = 4.0, 40.0
ARMS = [
    *(("colocated", BUSY), ("colocated:8", BUSY), ("colocated:64", BUSY), ("colocated:8", FLOODED)),
    *(("1p1d", BUSY), ("4p4d", BUSY), ("32p32d", BUSY), ("4p4d", FLOODED)),
]
HEAD = (
    "Fleet",
    "Requests/s",
    "Running, queued at the end",
    "us an arrival",
    "us a message",
    "Tokens a message",
    "us a token, all",
)


class TimedEvents(Events):
    """Adds up the machine's time that what happens takes, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = Counter[str]()
        self.calls = Counter[str]()

    def at(self, when_s: float, call: Callable[..., object], *args: Any) -> None:
        super().at(when_s, self._time, call, *args)

    def _time(self, call: Callable[..., object], *args: Any) -> None:
        start = perf_counter()
        call(*args)
        self.seconds[call.__qualname__] += perf_counter() - start
        self.calls[call.__qualname__] += 1

    def forget(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self.calls.clear()


class Load:
    """Requests by a Poisson process, for ever."""

    def __init__(self, fleet: Fleet, rate: float, workload: str) -> None:
        self.answers: list[Answer] = []
        self.num_ended = 0
        self._fleet = fleet
        self._prompts = MixLoad(workload, 1.0, 0, range(1, 32_000), "").prompts()
        self._arrivals = poisson_arrivals(rate, 0)
        fleet.events.at(next(self._arrivals), self.arrive)

    def arrive(self) -> None:
        events = self._fleet.events
        answer = Answer(next(self._prompts), events.now_s)
        self.answers.append(answer)
        # An event of its own, so that drawing the prompt is not timed.
        events.at(events.now_s, self._fleet.gateway.submit, answer, self._one_ended)
        events.at(next(self._arrivals), self.arrive)

    def _one_ended(self) -> None:
        self.num_ended += 1

    @property
    def num_tokens(self) -> int:
        return sum(each.num_tokens for each in self.answers)


def measure(arm_name: str, rate: float, args: argparse.Namespace) -> tuple[str, ...]:
    arm = parse_arm(arm_name)
    rate *= arm.topology.num_prefill + arm.topology.num_decode
    events = TimedEvents()
    fleet = build_fleet(DEVICE, arm, events)
    load = Load(fleet, rate, args.workload)
    events.run(limit_s=args.warm_up)
    events.forget()
    num_before = load.num_tokens
    events.run(limit_s=args.warm_up + args.seconds)
    num_tokens = load.num_tokens - num_before
    arrivals, messages = (
        each.__qualname__ for each in (VirtualGateway.submit, VirtualGateway.hear)
    )
    num_open = len(load.answers) - load.num_ended
    num_queued = sum(1 for each in load.answers if not (each.num_tokens or each.error))
    total_s = events.seconds[arrivals] + events.seconds[messages]
    return (
        arm_name,
        f"{rate:,.0f}",
        f"{num_open - num_queued:,}, {num_queued:,}",
        f"{events.seconds[arrivals] / events.calls[arrivals] * 1e6:,.0f}",
        f"{events.seconds[messages] / events.calls[messages] * 1e6:,.0f}",
        f"{num_tokens / events.calls[messages]:.1f}",
        f"{total_s / num_tokens * 1e6:.1f}",
    )


def main(args: argparse.Namespace) -> None:
    gc.disable()
    arms = [(name, BUSY) for name in args.arms] or ARMS
    for line in markdown_lines(HEAD, (measure(arm, rate, args) for arm, rate in arms)):
        print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of virtual time")
    parser.add_argument("--warm-up", type=float, default=5.0)
    parser.add_argument("--workload", default="chat")
    parser.add_argument("--arms", nargs="*", default=[])
    main(parser.parse_args())
