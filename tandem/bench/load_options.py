"""A load as the user asks for it, as flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

LOAD, ASKING = "The load", "How it is asked"


@dataclass(frozen=True)
class LoadOptions:
    """What is empty or None follows from the rest."""

    workload: Annotated[
        str,
        typer.Option(
            help="chat, long-prompts, shared-prefix, tenants, conversations, random, or A to D of"
            " benchmarks/peers (default: chat)",
            rich_help_panel=LOAD,
        ),
    ] = ""
    prompt_tokens: Annotated[
        str, typer.Option(help="of random prompts: 512 or 100:900", rich_help_panel=LOAD)
    ] = ""
    output_tokens: Annotated[
        str, typer.Option(help="of their answers: 128 or 10:250", rich_help_panel=LOAD)
    ] = ""
    length_scale: Annotated[
        float, typer.Option(help="all lengths times this", rich_help_panel=LOAD)
    ] = 1.0
    trace: Annotated[
        str,
        typer.Option(
            help="a file with a line of JSON for each request, Mooncake's or with prompts",
            rich_help_panel=LOAD,
        ),
    ] = ""
    speed: Annotated[
        float, typer.Option(help="how many times as fast as the trace has it", rich_help_panel=LOAD)
    ] = 1.0
    rate: Annotated[
        float | None,
        typer.Option(
            help="requests/s of an open loop; inf: as fast as --concurrency lets, or all at once",
            rich_help_panel=LOAD,
        ),
    ] = None
    burstiness: Annotated[
        float,
        typer.Option(
            help="of arrivals: 1 is Poisson, less comes in bursts, more is even",
            rich_help_panel=LOAD,
        ),
    ] = 1.0
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="requests at a time at the most, 0 for no bound; without --rate a closed loop"
            " of so many (default: 8)",
            rich_help_panel=LOAD,
        ),
    ] = None
    num_requests: Annotated[
        int | None,
        typer.Option("--requests", help="how many are measured", rich_help_panel=LOAD),
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option(help="how long arrivals are measured (default: 30)", rich_help_panel=LOAD),
    ] = None
    warm_up_s: Annotated[
        float,
        typer.Option("--warm-up", help="seconds of arrivals before that", rich_help_panel=LOAD),
    ] = 0.0
    seed: Annotated[
        int, typer.Option(help="of arrivals, lengths and what prompts share", rich_help_panel=LOAD)
    ] = 0
    same_tokens: Annotated[
        bool,
        typer.Option(
            "--same-tokens",
            help="the seed's own tokens, which a server that was asked before may have cached, and"
            " not other ones in each run",
            rich_help_panel=LOAD,
        ),
    ] = False
    ignore_eos: Annotated[
        bool,
        typer.Option(
            help="answers of the length asked for; without it, OpenAI's own fields only",
            rich_help_panel=ASKING,
        ),
    ] = True
