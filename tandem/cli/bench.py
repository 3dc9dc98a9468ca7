"""`tandem bench`: load, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(add_completion=False, no_args_is_help=True, help="Measure what is served.")
# After `--`: what all arms' `tandem up` is told as well.
UP_FLAGS = {"allow_extra_args": True}


@bench.callback()
def choose() -> None:
    """Measure what is served."""


@bench.command(context_settings=UP_FLAGS)
def goodput(
    context: typer.Context,
    *,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or mock:PROFILE, whose times are then the model's own")
    ] = "cpu",
    devices: Annotated[
        int, typer.Option(help="how many devices each arm has; on a CPU these are its cores")
    ] = 0,
    model: Annotated[str, typer.Option(help="default: mock on mock devices")] = "",
    arms: Annotated[
        str,
        typer.Option(
            help="TOPOLOGY or TOPOLOGY+FLAG=VALUE, comma-separated (default: colocated under each"
            " policy and every ratio of prefill to decode workers; simulated, also other chunk"
            " sizes, and without prompts on decode workers)"
        ),
    ] = "",
    workloads: Annotated[
        str,
        typer.Option(
            help="comma-separated: chat, long-prompts, shared-prefix, tenants, conversations"
        ),
    ] = "long-prompts",
    seconds: Annotated[float, typer.Option(help="how long arrivals are measured")] = 30.0,
    requests: Annotated[int, typer.Option(help="and longer, until about so many have come")] = 0,
    warm_up: Annotated[float, typer.Option(help="seconds of arrivals before that")] = 5.0,
    length_scale: Annotated[
        float | None, typer.Option(help="all lengths times this (default: 1; on a CPU 0.25)")
    ] = None,
    alone: Annotated[int, typer.Option(help="requests that each arm serves uncontended")] = 8,
    rates_per_start: Annotated[
        int, typer.Option(help="rates that are tried before it is another arm's turn")
    ] = 3,
    tolerance: Annotated[
        float, typer.Option(help="the search ends when the rate is known to this factor")
    ] = 1.3,
    simulated: Annotated[
        bool,
        typer.Option(
            help="in virtual time: the gateway's and the workers' real decisions, on mock devices"
            " whose steps take no time of this machine's"
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="of arrivals, lengths and prompts")] = 0,
    out: Annotated[Path, typer.Option(help="folder for goodput.jsonl and goodput.md")] = Path(
        "goodput"
    ),
) -> None:
    """Find each arm's goodput: the highest Poisson rate at which 90% of the requests meet bounds on
    TTFT and TPOT.

    Each arm is a `tandem up` of its own on the same devices, started anew for every few rates.
    Flags after `--` go to all of them.

    With --simulated nothing is started: an arm at a rate is worked out in seconds, the same
    whenever it is asked for. So it also answers which xPyD suits a load: give --devices, and the
    --workloads that are most like it.
    """
    from tandem.cli.goodput import GoodputOptions, run_goodput

    run_goodput(
        GoodputOptions(
            device=device,
            num_devices=devices,
            model=model,
            arms=_parts(arms),
            workloads=_parts(workloads),
            measured_s=seconds,
            num_requests=requests,
            warm_up_s=warm_up,
            length_scale=length_scale,
            num_uncontended=alone,
            rates_per_start=rates_per_start,
            tolerance=tolerance,
            seed=seed,
            simulated=simulated,
            up_flags=tuple(context.args),
        ),
        out,
    )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for each in text.split(",") if (part := each.strip()))
