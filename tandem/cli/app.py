"""The commands.

What a command needs is imported when it runs, so that `tandem --help` comes at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.bench import bench
from tandem.cli.credentials import certs, keys
from tandem.cli.flags import (
    HUB_MODEL,
    WORKERS,
    AddressFlag,
    ApiKeyFlag,
    BlockSizeFlag,
    DeviceFlag,
    DtypeFlag,
    GrpcPortFlag,
    HostFlag,
    HttpPortFlag,
    KVCacheDtypeFlag,
    LogDirFlag,
    MaxModelLenFlag,
    MemoryShareFlag,
    ModelFlag,
    NumBlocksFlag,
    PortBaseFlag,
    QuantizationFlag,
    TopologyFlag,
    VerboseFlag,
    flag,
)
from tandem.core.errors import TandemError

commands = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="LLM serving that splits prefill from decode.",
)

GATEWAY = "Gateway"
# The arguments, --help among them, are the service's own business.
FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def app() -> None:
    """The `tandem` command; a `TandemError` becomes one line and exit status 1."""
    try:
        commands(prog_name="tandem")
    except TandemError as error:
        sys.exit(f"error: {error.message}")


@commands.command()
def up(
    *,
    topology: TopologyFlag = "1p1d",
    model: ModelFlag = "default",
    device: DeviceFlag = "cpu",
    host: HostFlag = "127.0.0.1",
    http_port: HttpPortFlag = 8000,
    grpc_port: GrpcPortFlag = 50050,
    port_base: PortBaseFlag = 50051,
    log_dir: LogDirFlag = None,
    verbose: VerboseFlag = False,
    tls_dir: Annotated[
        Path | None,
        flag("tls-dir", "what `tandem certs` made: mutual TLS between gateway and workers"),
    ] = None,
    start_timeout: Annotated[int, flag("start-timeout", "seconds until all must be ready")] = 300,
    drain_timeout: Annotated[
        float | None,
        flag("drain-timeout", "seconds after SIGTERM for what is under way (default: 25)"),
    ] = None,
    dtype: DtypeFlag = None,
    quantization: QuantizationFlag = None,
    kv_cache_dtype: KVCacheDtypeFlag = None,
    max_model_len: MaxModelLenFlag = None,
    max_num_seqs: Annotated[
        int | None, flag("max-num-seqs", "sequences a worker holds at the most", WORKERS)
    ] = None,
    block_size: BlockSizeFlag = None,
    num_blocks: NumBlocksFlag = None,
    memory_share: MemoryShareFlag = None,
    prefix_caching: Annotated[
        str | None,
        flag("prefix-caching", "keep KV for what begins alike: auto, off", WORKERS),
    ] = None,
    mock_verify: Annotated[
        str | None,
        flag("mock-verify", "KV that a mock device reads at each step: full, incremental", WORKERS),
    ] = None,
    policy: Annotated[
        str | None,
        flag(
            "policy",
            "order of prompts: shortest-first, priority, edf, fcfs or an installed one",
            GATEWAY,
        ),
    ] = None,
    tenants: Annotated[
        Path | None, flag("tenants", "TOML file of tenants: weights and quotas", GATEWAY)
    ] = None,
    api_key: Annotated[
        str | None, flag("api-key", "whoever asks must have this key", GATEWAY)
    ] = None,
    api_keys: Annotated[
        Path | None,
        flag("api-keys", "file of keys and their tenants: see `tandem keys`", GATEWAY),
    ] = None,
    local_prefill: Annotated[
        str | None,
        flag("local-prefill", "prompts on decode workers, if sooner there: auto, off", GATEWAY),
    ] = None,
    on_bad_kv: Annotated[
        str | None, flag("on-bad-kv", "KV that comes damaged: recompute, fail", GATEWAY)
    ] = None,
    self_check: Annotated[
        float | None,
        flag("self-check", "share of answers to generate once more, to compare", GATEWAY),
    ] = None,
    max_batch_tokens: Annotated[
        int | None, flag("max-batch-tokens", "prompt tokens of a prefill batch", GATEWAY)
    ] = None,
    max_queue: Annotated[int | None, flag("max-queue", "requests that may wait", GATEWAY)] = None,
    batching: Annotated[
        str | None,
        flag("batching", "colocated steps: chunked, prefill-first or decode-first", GATEWAY),
    ] = None,
    prefill_token_budget: Annotated[
        int | None,
        flag("prefill-token-budget", "prompt tokens of a chunked colocated step", GATEWAY),
    ] = None,
    tool_format: Annotated[
        str | None,
        flag("tool-format", "how the model writes calls: auto, hermes, llama, mistral", GATEWAY),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        flag("otlp-endpoint", "collector that traces go to, as http://localhost:4317", GATEWAY),
    ] = None,
    trace_sample: Annotated[
        float | None, flag("trace-sample", "share of the requests that are traced", GATEWAY)
    ] = None,
) -> None:
    """Start prefill workers, decode workers and the gateway, and keep them running.

    Ends with Ctrl-C; a second Ctrl-C ends it at once. SIGTERM lets answers under way finish.
    """
    from tandem.cli.fleet import FleetSettings
    from tandem.cli.up import run_up
    from tandem.core.topology import parse_topology

    run_up(
        FleetSettings(
            topology=parse_topology(topology),
            model=model,
            device=device,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            port_base=port_base,
            api_key=api_key,
            worker_options={
                "tls-dir": _text(tls_dir),
                "dtype": dtype,
                "quantization": quantization,
                "kv-cache-dtype": kv_cache_dtype,
                "max-model-len": max_model_len,
                "max-num-seqs": max_num_seqs,
                "block-size": block_size,
                "num-blocks": num_blocks,
                "memory-share": memory_share,
                "prefix-caching": prefix_caching,
                "mock-verify": mock_verify,
                "drain-timeout": drain_timeout,
            },
            gateway_options={
                "policy": policy,
                "tls-dir": _text(tls_dir),
                "tenants": _text(tenants),
                "api-keys": _text(api_keys),
                "local-prefill": local_prefill,
                "on-bad-kv": on_bad_kv,
                "self-check": self_check,
                "max-batch-tokens": max_batch_tokens,
                "max-queue": max_queue,
                "batching": batching,
                "prefill-token-budget": prefill_token_budget,
                "tool-format": tool_format,
                "otlp-endpoint": otlp_endpoint,
                "trace-sample": trace_sample,
                "drain-timeout": drain_timeout,
            },
        ),
        log_dir=log_dir,
        verbose=verbose,
        start_timeout_s=start_timeout,
        drain_timeout_s=drain_timeout,
    )


@commands.command()
def doctor(
    *,
    topology: TopologyFlag = "1p1d",
    model: ModelFlag = "default",
    device: DeviceFlag = "cpu",
    host: HostFlag = "127.0.0.1",
    http_port: HttpPortFlag = 8000,
    grpc_port: GrpcPortFlag = 50050,
    port_base: PortBaseFlag = 50051,
    log_dir: LogDirFlag = None,
    verbose: VerboseFlag = False,
    dtype: DtypeFlag = None,
    quantization: QuantizationFlag = None,
    kv_cache_dtype: KVCacheDtypeFlag = None,
    max_model_len: MaxModelLenFlag = None,
    block_size: BlockSizeFlag = None,
    num_blocks: NumBlocksFlag = None,
    memory_share: MemoryShareFlag = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Say what this machine has, and whether `tandem up` with these flags would work.

    Exit status 1 if something stops it.
    """
    from tandem.cli.doctor.doctor import run_doctor
    from tandem.cli.fleet import FleetSettings
    from tandem.cli.up import default_logs
    from tandem.core.topology import parse_topology

    settings = FleetSettings(
        topology=parse_topology(topology),
        model=model,
        device=device,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        port_base=port_base,
        worker_options={
            "dtype": dtype,
            "quantization": quantization,
            "kv-cache-dtype": kv_cache_dtype,
            "max-model-len": max_model_len,
            "block-size": block_size,
            "num-blocks": num_blocks,
            "memory-share": memory_share,
        },
    )
    logs = None if verbose else log_dir or default_logs(settings)
    run_doctor(settings, logs, as_json=as_json)


@commands.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="ask this and leave")] = None,
    *,
    address: AddressFlag = None,
    api_key: ApiKeyFlag = None,
    system: Annotated[str | None, flag("system", "the system message")] = None,
    max_tokens: Annotated[int | None, flag("max-tokens", "tokens of an answer at the most")] = None,
    temperature: Annotated[
        float, flag("temperature", "0 is greedy; a small model needs a low one")
    ] = 0.2,
) -> None:
    """Chat with the model. Ctrl-C stops an answer; Ctrl-D or /exit leaves."""
    from tandem.cli.chat import run_chat

    run_chat(
        prompt,
        address,
        api_key,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
    )


@commands.command()
def timeline(
    address: AddressFlag = None,
    api_key: ApiKeyFlag = None,
    window: Annotated[str, flag("window", "how far back: 500ms, 30s, 5m")] = "30s",
    save: Annotated[
        Path | None,
        flag("save", "also write a file: .json (trace events, for ui.perfetto.dev) or .svg"),
    ] = None,
) -> None:
    """Show what each worker did of late, and how busy it was."""
    from tandem.cli.timeline import show_timeline

    show_timeline(address, api_key, window, save)


@commands.command()
def top(
    url: Annotated[
        str | None, flag("url", "the gateway's page (default: http://127.0.0.1:8000)")
    ] = None,
    api_key: ApiKeyFlag = None,
    once: Annotated[bool, typer.Option("--once", help="print one picture and leave")] = False,
) -> None:
    """Watch the engines work: the page's picture, live, in the terminal. q leaves."""
    from tandem.cli.top.top import show_top

    show_top(url, api_key, once=once)


@commands.command()
def workers(address: AddressFlag = None, api_key: ApiKeyFlag = None) -> None:
    """List the workers: role, state, what they hold."""
    from tandem.cli.workers import show_workers

    show_workers(address, api_key)


@commands.command()
def drain(
    worker: Annotated[str, typer.Argument(help="the worker's name, as `tandem workers` has it")],
    *,
    address: AddressFlag = None,
    api_key: ApiKeyFlag = None,
    timeout: Annotated[
        float,
        typer.Option(min=0, max=86_400, help="seconds that it may take for what it has"),
    ] = 30.0,
    wait: Annotated[bool, typer.Option(help="return when it holds nothing any more")] = True,
) -> None:
    """Take a worker out of service: others go on with what it does not finish in time.

    Until `tandem undrain`, or until the worker is started anew.
    """
    from tandem.cli.workers import drain_worker

    drain_worker(address, api_key, worker, timeout, wait=wait)


@commands.command()
def undrain(
    worker: Annotated[str, typer.Argument(help="the worker's name, as `tandem workers` has it")],
    *,
    address: AddressFlag = None,
    api_key: ApiKeyFlag = None,
) -> None:
    """Put a worker back into service."""
    from tandem.cli.workers import undrain_worker

    undrain_worker(address, api_key, worker)


@commands.command()
def pull(
    model: Annotated[
        str,
        typer.Argument(help=f"default, a folder, a .gguf file or {HUB_MODEL}"),
    ] = "default",
) -> None:
    """Download or import a model into the cache, and print its folder.

    An interrupted download goes on where it stopped.
    """
    from tandem.artifacts.progress import terminal_progress
    from tandem.artifacts.resolve import pull_model

    with terminal_progress() as progress:
        folder = pull_model(model, progress)
    typer.echo(folder.path)


commands.command()(keys)
commands.command()(certs)
commands.add_typer(bench, name="bench")

models = typer.Typer(add_completion=False, invoke_without_command=True)
commands.add_typer(models, name="models")


@models.callback()
def list_models(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="for programs: a JSON list")] = False,
) -> None:
    """List the models in the cache; `tandem models rm NAME` removes one."""
    if context.invoked_subcommand is None:
        from tandem.cli.models import show_models

        show_models(as_json=json)


@models.command("rm")
def remove_model(
    name: Annotated[str, typer.Argument(help="the model's name, or its folder")],
) -> None:
    """Remove a model from the cache."""
    from tandem.artifacts.catalog import remove_model

    typer.echo(f"removed {remove_model(name)}")


@commands.command(context_settings=FORWARD, add_help_option=False)
def prefill(context: typer.Context) -> None:
    """Run one prefill worker, in this process."""
    _become("prefill_service", context.args)


@commands.command(context_settings=FORWARD, add_help_option=False)
def decode(context: typer.Context) -> None:
    """Run one decode worker, in this process."""
    _become("decode_service", context.args)


@commands.command(context_settings=FORWARD, add_help_option=False)
def gateway(context: typer.Context) -> None:
    """Run the gateway, in this process."""
    _become("gateway", context.args)


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def _become(module: str, arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
