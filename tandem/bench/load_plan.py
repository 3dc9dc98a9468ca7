"""From what the user asked for to requests and their times. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, repeat
from math import inf, isinf
from pathlib import Path

from tandem.bench.arrivals import gamma_arrivals, poisson_arrivals
from tandem.bench.lengths import parse_lengths
from tandem.bench.load_options import LoadOptions
from tandem.bench.mixes import MIXES, Mix, Unrelated, mix_prompts
from tandem.bench.open_loop import OpenLoop
from tandem.bench.report.load_report import LoadSpec
from tandem.bench.text_prompts import Texts
from tandem.bench.trace import MadePrompts, Trace
from tandem.bench.workload import WORKLOADS, LongPrompts, Prompt
from tandem.core.errors import ConfigError
from tandem.core.numbers import require_positive

SECONDS = 30.0
CONCURRENCY = 8
RANDOM = "random"
PROMPT_TOKENS, OUTPUT_TOKENS = "512", "128"


@dataclass(frozen=True)
class LoadPlan:
    """A load that can be run. Its prompts are of `mix`, or of `trace`; beside them come the `long`
    ones, at a pace of their own. With another `nonce` they have other tokens, of the same lengths
    and shared in the same way."""

    spec: LoadSpec
    mix: Mix | None = None
    trace: Trace | None = None
    speed: float = 1.0
    long: LongPrompts | None = None
    nonce: str = ""

    def loop(self) -> OpenLoop:
        """When requests come."""
        spec = self.spec
        return OpenLoop(
            self._arrivals(),
            spec.warm_up_s,
            spec.seconds or inf,
            num_measured=spec.num_requests,
            concurrency=spec.concurrency,
        )

    def _arrivals(self) -> Iterable[float]:
        spec = self.spec
        match spec.arrivals:
            case "trace" if self.trace:
                return self.trace.arrivals(self.speed)
            case "poisson":
                return poisson_arrivals(spec.rate or 0.0, spec.seed)
            case "gamma":
                return gamma_arrivals(spec.rate or 0.0, spec.burstiness, spec.seed)
            case "at once":
                return repeat(0.0, spec.num_requests)
            case _:
                return repeat(0.0)

    def prompts(self, token_ids: Sequence[int], texts: Texts | None) -> Iterator[Prompt]:
        """What they ask: as long as there are arrivals, and no shorter. Those that all come at once
        are made by now: each would be late by the making of all before it."""
        prompts = self._worded(self._prompts(token_ids), texts)
        if self.spec.arrivals == "at once":
            return iter(list(islice(prompts, self.spec.num_requests)))
        return prompts

    def probe(self, token_ids: Sequence[int], texts: Texts | None) -> Prompt:
        """One prompt like the first, of other tokens unless the trace spells them out: who has
        served it knows none of those that follow."""
        return next(self._worded(self._prompts(token_ids, "probe"), texts))

    def long_loop(self) -> OpenLoop:
        """When long prompts come."""
        assert self.long
        return OpenLoop(self.long.times_s(self.spec.warm_up_s + self.spec.seconds))

    def long_prompts(self, token_ids: Sequence[int], texts: Texts | None) -> Iterator[Prompt]:
        """What those ask."""
        long = self.long
        assert long
        mix = Unrelated(
            parse_lengths(str(long.num_prompt)), parse_lengths(str(long.num_output))
        ).scaled(self.spec.length_scale)
        return self._worded(self._mixed(mix, token_ids, "long"), texts)

    def _prompts(self, token_ids: Sequence[int], variant: str = "") -> Iterator[Prompt]:
        if self.trace is not None:
            return self._traced(self.trace, token_ids, variant)
        assert self.mix
        return self._mixed(self.mix.scaled(self.spec.length_scale), token_ids, variant)

    def _mixed(self, mix: Mix, token_ids: Sequence[int], variant: str) -> Iterator[Prompt]:
        return mix_prompts(mix, self.spec.seed, token_ids, variant + self.nonce)

    def _traced(self, trace: Trace, token_ids: Sequence[int], variant: str) -> Iterator[Prompt]:
        """A trace without times of its own goes round, each time with other tokens, unless it
        spells them out."""
        spec = self.spec
        for number in count():
            seed = f"{spec.seed}{variant}{self.nonce}" + (f" round {number}" if number else "")
            made = MadePrompts(token_ids, seed, spec.length_scale)
            yield from map(made.prompt, trace.requests)

    def _worded(self, prompts: Iterator[Prompt], texts: Texts | None) -> Iterator[Prompt]:
        if texts is None:
            return prompts
        return (prompt if prompt.text else texts.worded(prompt) for prompt in prompts)


def plan_load(
    options: LoadOptions, trace: Trace | None = None, prompts: str = "ids", nonce: str = ""
) -> LoadPlan:
    """The load that was asked for; `trace` is what `options.trace` names, and `prompts` how they
    are put, as a report has it. The `nonce` makes its tokens this run's own, unless they are to be
    the same. Raises `ConfigError`."""
    plan = _plan(options, trace, prompts)
    return plan if options.same_tokens else replace(plan, nonce=nonce)


def _plan(options: LoadOptions, trace: Trace | None, prompts: str) -> LoadPlan:
    _check_numbers(options)
    _check_pace(options, trace)
    if trace is not None:
        if options.workload or options.prompt_tokens or options.output_tokens:
            raise ConfigError("a trace has requests of its own: no --workload, and no lengths")
        name = f"trace {Path(options.trace).name}"
        return LoadPlan(_spec(options, name, prompts, trace), trace=trace, speed=options.speed)
    if options.workload in WORKLOADS:
        return _fixed(options, prompts)
    name, mix = _mix(options)
    return LoadPlan(_spec(options, name, prompts), mix=mix)


def _mix(options: LoadOptions) -> tuple[str, Mix]:
    has_lengths = bool(options.prompt_tokens or options.output_tokens)
    if options.workload and options.workload != RANDOM:
        if has_lengths:
            raise ConfigError(f"the workload {options.workload} has lengths of its own")
        if options.workload not in MIXES:
            known = ", ".join((RANDOM, *MIXES, *WORKLOADS))
            raise ConfigError(f"unknown workload {options.workload!r:.40}: there are {known}")
        return options.workload, MIXES[options.workload]
    if not (has_lengths or options.workload):
        return "chat", MIXES["chat"]
    prompt, output = options.prompt_tokens or PROMPT_TOKENS, options.output_tokens or OUTPUT_TOKENS
    return (
        f"{RANDOM} {prompt} in, {output} out",
        Unrelated(parse_lengths(prompt), parse_lengths(output)),
    )


def _fixed(options: LoadOptions, prompts: str) -> LoadPlan:
    """One of the workloads that have a size of their own, of which the user may ask for another."""
    workload = WORKLOADS[options.workload]
    if options.prompt_tokens or options.output_tokens or options.rate is not None:
        raise ConfigError(f"the workload {options.workload} has lengths and a pace of its own")
    if workload.long and options.num_requests:
        raise ConfigError(f"the workload {options.workload} is as long as its --seconds")
    is_sized = bool(options.num_requests or options.seconds)
    sized = replace(
        options,
        concurrency=options.concurrency or workload.concurrency,
        num_requests=options.num_requests if is_sized else workload.num_requests,
        seconds=options.seconds if is_sized else workload.seconds,
    )
    lengths = (parse_lengths(str(each)) for each in (workload.num_prompt, workload.num_output))
    spec = _spec(sized, options.workload, prompts)
    return LoadPlan(spec, mix=Unrelated(*lengths), long=workload.long)


def _spec(
    options: LoadOptions, workload: str, prompts: str, trace: Trace | None = None
) -> LoadSpec:
    arrivals, rate, concurrency = _pace(options, trace)
    num_requests, seconds = options.num_requests or 0, options.seconds or 0.0
    if trace and not seconds:
        num_requests = num_requests or len(trace.requests)
    if arrivals == "trace" and trace and num_requests > len(trace.requests):
        raise ConfigError(
            f"{options.trace} has {len(trace.requests)} requests, at their times:"
            f" --requests is at most that, or --rate has it go round",
            param="num_requests",
        )
    if arrivals == "trace" and options.warm_up_s:
        raise ConfigError("a trace has no warm-up: its requests are what is measured")
    if arrivals == "at once" and (not num_requests or options.warm_up_s):
        raise ConfigError("--rate inf needs --requests, and has no warm-up; or set --concurrency")
    if not num_requests and not seconds:
        seconds = SECONDS
    return LoadSpec(
        workload=workload if options.speed == 1 else f"{workload} at {options.speed:g} times",
        prompts=prompts,
        arrivals=arrivals,
        rate=rate,
        burstiness=options.burstiness,
        concurrency=concurrency,
        num_requests=num_requests,
        seconds=seconds,
        warm_up_s=options.warm_up_s,
        length_scale=options.length_scale,
        ignore_eos=options.ignore_eos,
        seed=options.seed,
        same_tokens=options.same_tokens,
        trace=trace.digest if trace else "",
    )


def _pace(options: LoadOptions, trace: Trace | None) -> tuple[str, float | None, int]:
    """How requests arrive, at what rate, and how many at a time."""
    rate, concurrency = options.rate, options.concurrency or 0
    if rate is None and trace is not None and trace.is_timed:
        return "trace", None, concurrency
    if rate is None or isinf(rate):
        if concurrency or rate is None:
            if options.concurrency == 0:
                raise ConfigError(
                    "--concurrency 0, which is no bound, needs --rate or a --trace with times",
                    param="concurrency",
                )
            return "closed", None, concurrency or CONCURRENCY
        return "at once", None, 0
    return ("poisson" if options.burstiness == 1 else "gamma"), rate, concurrency


def _check_pace(options: LoadOptions, trace: Trace | None) -> None:
    """Refuse what would be without a meaning."""
    has_rate = options.rate is not None and not isinf(options.rate)
    if options.burstiness != 1 and not has_rate:
        raise ConfigError("--burstiness is of arrivals at a --rate", param="burstiness")
    if options.speed != 1 and (trace is None or not trace.is_timed or options.rate is not None):
        raise ConfigError("--speed is of a --trace with times of its own", param="speed")


def _check_numbers(options: LoadOptions) -> None:
    if options.rate is not None and options.rate != inf:
        require_positive("rate", options.rate)
    require_positive("burstiness", options.burstiness)
    require_positive("speed", options.speed)
    require_positive("length-scale", options.length_scale)
    for name, value in (("requests", options.num_requests), ("seconds", options.seconds)):
        if value is not None:
            require_positive(name, value)
    require_positive("concurrency", options.concurrency or 0, or_zero=True)
    require_positive("warm-up", options.warm_up_s, or_zero=True)
