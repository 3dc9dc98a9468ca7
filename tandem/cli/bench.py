"""`tandem bench`: load, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tandem.bench.load_options import LoadOptions
from tandem.cli.bench_flags import GoodputOptions, ServeOptions
from tandem.cli.flags import takes_flags

bench = typer.Typer(add_completion=False, invoke_without_command=True)
# After `--`: what all arms' `tandem up` is told as well.
UP_FLAGS = {"allow_extra_args": True}

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
@takes_flags
def serve(load: LoadOptions, options: ServeOptions) -> None:
    """Put a server under load, and say what its clients saw.

    Any that streams OpenAI's completions, or Tandem's gRPC API. Exit status 1 if any measured
    answer was not what was asked for. Ctrl-C ends it early, with what there is.
    """
    from tandem.cli.bench_serve import run_serve

    run_serve(options, load)


@bench.command(context_settings=UP_FLAGS)
@takes_flags
def goodput(context: typer.Context, options: GoodputOptions) -> None:
    """Find each arm's goodput: the highest Poisson rate at which 90% of the requests meet bounds on
    TTFT and TPOT.

    Each arm is a `tandem up` of its own on the same devices, started anew for every few rates.
    Flags after `--` go to all of them.

    With --simulated nothing is started: an arm at a rate is worked out in seconds, the same
    whenever it is asked for. So it also answers which xPyD suits a load: give --devices, and the
    --workloads that are most like it.
    """
    from tandem.cli.goodput import run_goodput

    run_goodput(options, context.args)
