"""What `tandem bench serve` and `goodput` are asked for, as flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tandem.bench.load_options import ASKING
from tandem.cli.flags import START_TIMEOUT_S, ApiKeyFlag, StartTimeoutFlag, flag

MEASURING = "What is measured"


@dataclass(frozen=True)
class ServeOptions:
    """Who is put under load, beside the load itself."""

    url: Annotated[
        str, flag("url", "http://HOST:PORT, https://HOST, grpc://HOST:PORT or grpcs://HOST")
    ] = "http://127.0.0.1:8000"
    model: Annotated[str, typer.Option(help="as the server calls it (default: its first)")] = ""
    api_key: ApiKeyFlag = None
    is_chat: Annotated[
        bool, typer.Option("--chat", help="the chat endpoint", rich_help_panel=ASKING)
    ] = False
    is_text: Annotated[
        bool,
        typer.Option("--text", help="prompts of words, not of token ids", rich_help_panel=ASKING),
    ] = False
    tokenizer: Annotated[
        str,
        typer.Option(
            help="tokenizer.json, or its folder: words of a token each", rich_help_panel=ASKING
        ),
    ] = ""
    token_ids: Annotated[
        str,
        typer.Option(help="that prompts are made of (default: 1000:30000)", rich_help_panel=ASKING),
    ] = ""
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", help="seconds of a request at the most", rich_help_panel=ASKING),
    ] = 600.0
    has_probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="ask once first, and give up if it fails",
            rich_help_panel=ASKING,
        ),
    ] = True
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            help="bounds in ms: ttft:500,tpot:50 (and e2el)",
            rich_help_panel=MEASURING,
            metavar="BOUNDS",
        ),
    ] = None
    metrics: Annotated[
        str,
        typer.Option(
            help="where the server's metrics are (default: /metrics of an http --url)",
            rich_help_panel=MEASURING,
        ),
    ] = ""
    out: Annotated[
        Path | None, typer.Option(help="write a report as JSON", rich_help_panel=MEASURING)
    ] = None
    html: Annotated[
        Path | None, typer.Option(help="write a page that stands alone", rich_help_panel=MEASURING)
    ] = None


@dataclass(frozen=True)
class GoodputOptions:
    """A sweep. What is empty or None is chosen by the device."""

    device: Annotated[
        str, typer.Option(help="cpu, cuda, or mock:PROFILE, whose times are then the model's own")
    ] = "cpu"
    num_devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            min=1,
            help="how many devices each arm has (default: a CPU's cores, 8 mock ones)",
        ),
    ] = None
    model: Annotated[str, typer.Option(help="default: mock on mock devices")] = ""
    arms: Annotated[
        str,
        typer.Option(
            help="TOPOLOGY or TOPOLOGY+FLAG=VALUE, comma-separated (default: of a CPU one worker on"
            " all cores under each --batching, one a core, and 1p1d under each --local-prefill; of"
            " other devices one on each under each --batching, and every ratio of prefill to decode"
            " workers; simulated, also other chunk sizes, and without prompts on decode workers)"
        ),
    ] = ""
    workloads: Annotated[
        str,
        typer.Option(
            help="comma-separated: chat, long-prompts, shared-prefix, tenants, conversations"
        ),
    ] = "long-prompts"
    measured_s: Annotated[
        float, typer.Option("--seconds", min=0, help="how long arrivals are measured")
    ] = 30.0
    num_requests: Annotated[
        int,
        typer.Option(
            "--requests",
            min=0,
            help="and longer, until about so many have come",
            show_default=False,
        ),
    ] = 0
    warm_up_s: Annotated[
        float, typer.Option("--warm-up", min=0, help="seconds of arrivals before that")
    ] = 5.0
    length_scale: Annotated[
        float | None, typer.Option(help="all lengths times this (default: 1; on a CPU 0.25)")
    ] = None
    num_uncontended: Annotated[
        int | None,
        typer.Option(
            "--alone",
            min=1,
            help="requests that each arm serves uncontended (default: 8; simulated 200), of which"
            " the first find no prefix cached",
        ),
    ] = None
    rates_per_start: Annotated[
        int, typer.Option(min=1, help="rates that are tried before it is another arm's turn")
    ] = 3
    tolerance: Annotated[
        float, typer.Option(help="the search ends when the rate is known to this factor")
    ] = 1.3
    simulated: Annotated[
        bool,
        typer.Option(
            help="in virtual time: the gateway's and the workers' real decisions, on mock devices"
            " whose steps take no time of this machine's"
        ),
    ] = False
    start_timeout_s: StartTimeoutFlag = START_TIMEOUT_S
    seed: Annotated[int, typer.Option(help="of arrivals, lengths and prompts")] = 0
    out: Annotated[
        Path, typer.Option(help="folder for goodput.jsonl, goodput.md and the arms' logs")
    ] = Path("goodput")
