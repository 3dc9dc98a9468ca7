"""Loads in virtual time: what `tandem.bench` does to a server on the machine's clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tandem.bench.answer import Answer
from tandem.bench.arrivals import poisson_arrivals
from tandem.bench.closed_loop import UNFINISHED
from tandem.bench.distribution import Distribution
from tandem.bench.open_loop import OpenRun
from tandem.bench.outcome import Objectives, Outcome
from tandem.bench.subject import PoissonLoop
from tandem.bench.workload import Prompt
from tandem.simulation.fleet import Fleet


def serve_alone(fleet: Fleet, prompts: Iterable[Prompt]) -> OpenRun:
    """Requests one at a time, the first of which warms up."""
    answers = [_serve_one(fleet, each) for each in prompts]
    return _open_run(answers[1:])


def _serve_one(fleet: Fleet, prompt: Prompt) -> Answer:
    """One request, and whatever comes of it: until nothing happens any more."""
    answer = Answer(prompt, fleet.events.now_s)
    fleet.gateway.submit(answer)
    fleet.events.run()
    return answer


def run_open_loop(
    fleet: Fleet, loop: PoissonLoop, prompts: Iterator[Prompt], loosest: Objectives
) -> OpenRun:
    """An open loop, as `tandem.bench.open_loop` runs it: until the requests of its window have
    ended, or the last of them has missed the loosest objectives."""
    return _OpenLoop(fleet, loop, prompts).run(loosest)


class _OpenLoop:
    def __init__(self, fleet: Fleet, loop: PoissonLoop, prompts: Iterator[Prompt]) -> None:
        self._fleet = fleet
        self._loop = loop
        self._prompts = prompts
        self._arrivals = poisson_arrivals(loop.rate, loop.seed)
        self._measured: list[Answer] = []
        self._num_open = 0

    def run(self, loosest: Objectives) -> OpenRun:
        events = self._fleet.events
        window_end_s = self._loop.warm_up_s + self._loop.measured_s
        events.at(next(self._arrivals), self._arrive)
        events.run(limit_s=window_end_s)
        latest = (
            each.sent_s + loosest[each.prompt.tenant].latest_s(each.prompt.num_output)
            for each in self._measured
        )
        events.run(until=lambda: self._num_open == 0, limit_s=max(latest, default=window_end_s))
        return _open_run(self._measured)

    def _arrive(self) -> None:
        """A request comes, and the next one will."""
        events = self._fleet.events
        answer = Answer(next(self._prompts), now_s := events.now_s)
        if 0 <= now_s - self._loop.warm_up_s < self._loop.measured_s:
            self._measured.append(answer)
            self._num_open += 1
            self._fleet.gateway.submit(answer, self._one_ended)
        else:
            self._fleet.gateway.submit(answer)
        events.at(next(self._arrivals), self._arrive)

    def _one_ended(self) -> None:
        self._num_open -= 1


def _open_run(answers: list[Answer]) -> OpenRun:
    for each in answers:
        if not each.error and each.num_tokens < each.prompt.num_output:
            each.error = UNFINISHED
    return OpenRun(
        [Outcome.of(each, each.sent_s, dilation=1.0) for each in answers],
        Distribution.of(itl_s for each in answers for itl_s in each.itl_s()),
        load_cores=0.0,
    )
