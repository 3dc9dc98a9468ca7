"""`tandem bench`: load, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.flags import ApiKeyFlag

bench = typer.Typer(add_completion=False, invoke_without_command=True)
# After `--`: what all arms' `tandem up` is told as well.
UP_FLAGS = {"allow_extra_args": True}

LOAD, ASKING, MEASURING = "The load", "How it is asked", "What is measured"

HtmlFlag = Annotated[Path | None, typer.Option("--html", help="write a page that stands alone")]
AnywayFlag = Annotated[bool, typer.Option("--anyway", help="also if the loads differ")]


@bench.callback()
def choose(
    context: typer.Context,
    compared: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A.json B.json", help="`tandem bench compare A B`"),
    ] = None,
    html: HtmlFlag = None,
    anyway: AnywayFlag = False,
) -> None:
    """Measure what is served."""
    if compared is None and (html is not None or anyway):
        raise typer.BadParameter("--html and --anyway go behind the command, or with --compare A B")
    if context.invoked_subcommand is None:
        if compared is None:
            typer.echo(context.get_help())
        else:
            compare(*compared, html=html, anyway=anyway)
    elif compared is not None:
        raise typer.BadParameter("--compare stands alone, without another command")


@bench.command()
def compare(
    first: Annotated[Path, typer.Argument(help="a report of `tandem bench serve`")],
    second: Annotated[Path, typer.Argument(help="another one of the same load")],
    *,
    html: HtmlFlag = None,
    anyway: AnywayFlag = False,
) -> None:
    """Put two reports side by side: ratios of the second by the first, with 95% intervals."""
    from tandem.cli.bench_compare import run_compare

    run_compare(first, second, html, anyway=anyway)


@bench.command()
def serve(
    *,
    url: Annotated[
        str, typer.Option(help="http://HOST:PORT, https://HOST or grpc://HOST:PORT")
    ] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="as the server calls it (default: its first)")] = "",
    api_key: ApiKeyFlag = None,
    workload: Annotated[
        str,
        typer.Option(
            help="chat, long-prompts, shared-prefix, tenants, conversations, random, or A to D of"
            " benchmarks/peers (default: chat)",
            rich_help_panel=LOAD,
        ),
    ] = "",
    prompt_tokens: Annotated[
        str, typer.Option(help="of random prompts: 512 or 100:900", rich_help_panel=LOAD)
    ] = "",
    output_tokens: Annotated[
        str, typer.Option(help="of their answers: 128 or 10:250", rich_help_panel=LOAD)
    ] = "",
    length_scale: Annotated[
        float, typer.Option(help="all lengths times this", rich_help_panel=LOAD)
    ] = 1.0,
    trace: Annotated[
        str,
        typer.Option(
            help="a file with a line of JSON for each request, Mooncake's or with prompts",
            rich_help_panel=LOAD,
        ),
    ] = "",
    speed: Annotated[
        float, typer.Option(help="how many times as fast as the trace has it", rich_help_panel=LOAD)
    ] = 1.0,
    rate: Annotated[
        float | None,
        typer.Option(
            help="requests/s of an open loop; inf: as fast as --concurrency lets, or all at once",
            rich_help_panel=LOAD,
        ),
    ] = None,
    burstiness: Annotated[
        float,
        typer.Option(
            help="of arrivals: 1 is Poisson, less comes in bursts, more is even",
            rich_help_panel=LOAD,
        ),
    ] = 1.0,
    concurrency: Annotated[
        int,
        typer.Option(
            help="requests at a time at the most; without --rate a closed loop of so many"
            " (default: 8)",
            rich_help_panel=LOAD,
            show_default=False,
        ),
    ] = 0,
    requests: Annotated[
        int, typer.Option(help="how many are measured", rich_help_panel=LOAD, show_default=False)
    ] = 0,
    seconds: Annotated[
        float,
        typer.Option(
            help="how long arrivals are measured (default: 30)",
            rich_help_panel=LOAD,
            show_default=False,
        ),
    ] = 0.0,
    warm_up: Annotated[
        float, typer.Option(help="seconds of arrivals before that", rich_help_panel=LOAD)
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(help="of arrivals, lengths and prompts", rich_help_panel=LOAD)
    ] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="the chat endpoint", rich_help_panel=ASKING)
    ] = False,
    text: Annotated[
        bool,
        typer.Option("--text", help="prompts of words, not of token ids", rich_help_panel=ASKING),
    ] = False,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="tokenizer.json, or its folder: words of a token each", rich_help_panel=ASKING
        ),
    ] = "",
    token_ids: Annotated[
        str,
        typer.Option(help="that prompts are made of (default: 1000:30000)", rich_help_panel=ASKING),
    ] = "",
    ignore_eos: Annotated[
        bool,
        typer.Option(
            help="answers of the length asked for; without it, OpenAI's own fields only",
            rich_help_panel=ASKING,
        ),
    ] = True,
    timeout: Annotated[
        float, typer.Option(help="seconds of a request at the most", rich_help_panel=ASKING)
    ] = 600.0,
    probe: Annotated[
        bool,
        typer.Option(help="ask once first, and give up if it fails", rich_help_panel=ASKING),
    ] = True,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            help="bounds in ms: ttft:500,tpot:50 (and e2el)",
            rich_help_panel=MEASURING,
            metavar="BOUNDS",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="where the server's metrics are (default: /metrics of an http --url)",
            rich_help_panel=MEASURING,
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="write a report as JSON", rich_help_panel=MEASURING)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="write a page that stands alone", rich_help_panel=MEASURING),
    ] = None,
) -> None:
    """Put a server under load, and say what its clients saw.

    Any that streams OpenAI's completions, or Tandem's gRPC API. Exit status 1 if any answer was not
    what was asked for. Ctrl-C ends it early, with what there is.
    """
    from tandem.bench.load_plan import LoadOptions
    from tandem.cli.bench_serve import ServeOptions, run_serve

    run_serve(
        ServeOptions(
            url=url,
            model=model,
            api_key=api_key,
            is_chat=chat,
            is_text=text,
            tokenizer=tokenizer,
            token_ids=token_ids,
            goodput=goodput or (),
            timeout_s=timeout,
            has_probe=probe,
            metrics=metrics,
            out=out,
            html=html,
        ),
        LoadOptions(
            workload=workload,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            trace=trace,
            speed=speed,
            rate=rate,
            burstiness=burstiness,
            concurrency=concurrency,
            num_requests=requests,
            seconds=seconds,
            warm_up_s=warm_up,
            length_scale=length_scale,
            ignore_eos=ignore_eos,
            seed=seed,
        ),
    )


@bench.command(context_settings=UP_FLAGS)
def goodput(
    context: typer.Context,
    *,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or mock:PROFILE, whose times are then the model's own")
    ] = "cpu",
    devices: Annotated[
        int,
        typer.Option(
            help="how many devices each arm has (default: a CPU's cores, 8 mock ones)",
            show_default=False,
        ),
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
    requests: Annotated[
        int,
        typer.Option(help="and longer, until about so many have come", show_default=False),
    ] = 0,
    warm_up: Annotated[float, typer.Option(help="seconds of arrivals before that")] = 5.0,
    length_scale: Annotated[
        float | None, typer.Option(help="all lengths times this (default: 1; on a CPU 0.25)")
    ] = None,
    alone: Annotated[
        int | None,
        typer.Option(
            help="requests that each arm serves uncontended (default: 8; simulated 200), of which"
            " the first find no prefix cached",
            show_default=False,
        ),
    ] = None,
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
