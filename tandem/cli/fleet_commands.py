"""`tandem up`, and `tandem doctor`, which takes the same flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from tandem.artifacts.hub_reference import HUB_MODEL
from tandem.cli.flags import START_TIMEOUT_S, StartTimeoutFlag, flag, takes_flags

if TYPE_CHECKING:
    from tandem.cli.fleet import FleetSettings

# Whose a flag is: its panel says to whom it is passed on. Those without one are `up`'s own.
ALL, WORKERS, DECODE, GATEWAY = "Gateway and workers", "Workers", "Decode workers", "Gateway"


@dataclass(frozen=True, kw_only=True)
class FleetFlags:
    """What is to be started, as flags."""

    topology: Annotated[
        str, flag("topology", "1p1d, 1p2d, 2p1d or another NpMd; colocated, colocated:2")
    ] = "1p1d"
    model: Annotated[
        str, flag("model", f"default, mock, a folder, a .gguf file or {HUB_MODEL}")
    ] = "default"
    device: Annotated[
        str,
        flag(
            "device",
            "cpu, cpu:0-3, cpu:1/2, cuda (one GPU a worker), cuda:0 (shared), mock:PROFILE",
        ),
    ] = "cpu"
    host: Annotated[str, flag("host", "address that the gateway listens on")] = "127.0.0.1"
    http_port: Annotated[int, flag("http-port", "port of the OpenAI API", alias="port")] = 8000
    grpc_port: Annotated[int, flag("grpc-port", "port of the gRPC API")] = 50050
    port_base: Annotated[
        int, flag("port-base", "the workers take the first free ports from here on")
    ] = 50051
    log_dir: Annotated[
        Path | None,
        flag("log-dir", "folder for the logs (default: logs/PORT or logs/HOST-PORT in the cache)"),
    ] = None
    verbose: Annotated[bool, flag("verbose", "logs to the terminal instead of files")] = False
    start_timeout: StartTimeoutFlag = START_TIMEOUT_S
    tls_dir: Annotated[
        Path | None,
        flag("tls-dir", "what `tandem certs` made: mutual TLS between them", ALL, exists=True),
    ] = None
    drain_timeout: Annotated[
        float | None,
        flag("drain-timeout", "seconds after SIGTERM for what is under way (default: 25)", ALL),
    ] = None
    log_level: Annotated[
        str | None, flag("log-level", "debug, info, warning or error (default: info)", ALL)
    ] = None
    log_format: Annotated[
        str | None, flag("log-format", "console, or json, an object a line (default: console)", ALL)
    ] = None
    dtype: Annotated[
        str | None, flag("dtype", "auto, float32 or bfloat16 (default: auto)", WORKERS)
    ] = None
    quantization: Annotated[
        str | None,
        flag(
            "quantization",
            "weights rounded to int8 or int4, on a CPU; or none (default: none)",
            WORKERS,
        ),
    ] = None
    kv_cache_dtype: Annotated[
        str | None,
        flag("kv-cache-dtype", "auto (the model's) or int8 (default: auto)", WORKERS),
    ] = None
    max_model_len: Annotated[
        int | None,
        flag(
            "max-model-len", "positions of a sequence at the most (default: the model's)", WORKERS
        ),
    ] = None
    max_num_seqs: Annotated[
        int | None,
        flag("max-num-seqs", "sequences a worker holds at the most (default: 256)", WORKERS),
    ] = None
    block_size: Annotated[
        int | None, flag("block-size", "tokens of a KV block (default: 16)", WORKERS)
    ] = None
    num_blocks: Annotated[
        int | None,
        flag(
            "num-blocks",
            "blocks of a worker's KV pool (default: what --memory-share leaves)",
            WORKERS,
        ),
    ] = None
    memory_share: Annotated[
        float | None,
        flag(
            "memory-share",
            "share of the device's memory that a worker takes (default: 0.15 of a CPU's; 0.9 of a"
            " GPU's, by the number of workers on it)",
            WORKERS,
        ),
    ] = None
    prefix_caching: Annotated[
        str | None,
        flag(
            "prefix-caching", "reuse the KV of shared prefixes: auto, off (default: auto)", WORKERS
        ),
    ] = None
    step_timeout: Annotated[
        float | None,
        flag(
            "step-timeout",
            "seconds after which a step hangs, and its worker is started anew (default: 120)",
            WORKERS,
        ),
    ] = None
    mock_verify: Annotated[
        str | None,
        flag(
            "mock-verify",
            "KV that a mock device reads at each step: full, incremental (default: full)",
            WORKERS,
        ),
    ] = None
    parked_kv_bytes: Annotated[
        int | None,
        flag(
            "parked-kv-bytes",
            "host memory for the KV of preempted sequences (default: 0 on CPUs, else 4 GiB)",
            DECODE,
        ),
    ] = None
    policy: Annotated[
        str | None,
        flag(
            "policy",
            "order of prompts: shortest-first, priority, edf, fcfs or an installed one (default:"
            " shortest-first)",
            GATEWAY,
        ),
    ] = None
    tenants: Annotated[
        Path | None,
        flag(
            "tenants",
            "TOML file of tenants: weights and quotas",
            GATEWAY,
            exists=True,
        ),
    ] = None
    api_key: Annotated[
        str | None,
        flag(
            "api-key",
            "whoever asks must have this key; better by TANDEM_API_KEY: others see flags",
            GATEWAY,
        ),
    ] = None
    api_keys: Annotated[
        Path | None,
        flag(
            "api-keys",
            "file of keys and their tenants: see `tandem keys`",
            GATEWAY,
            exists=True,
        ),
    ] = None
    local_prefill: Annotated[
        str | None,
        flag(
            "local-prefill",
            "prompts on decode workers, where sooner: auto, idle, off (default: auto)",
            GATEWAY,
        ),
    ] = None
    tpot_target_ms: Annotated[
        float | None,
        flag(
            "tpot-target-ms",
            "milliseconds that a token may take: what prompts may cost running answers",
            GATEWAY,
        ),
    ] = None
    on_bad_kv: Annotated[
        str | None,
        flag("on-bad-kv", "KV that comes damaged: recompute, fail (default: recompute)", GATEWAY),
    ] = None
    self_check: Annotated[
        float | None,
        flag(
            "self-check", "share of answers to generate once more, to compare (default: 0)", GATEWAY
        ),
    ] = None
    max_batch_tokens: Annotated[
        int | None,
        flag("max-batch-tokens", "prompt tokens of a prefill batch (default: 2048)", GATEWAY),
    ] = None
    max_queue: Annotated[
        int | None, flag("max-queue", "requests that may wait (default: 4096)", GATEWAY)
    ] = None
    max_connections: Annotated[
        int | None,
        flag("max-connections", "HTTP connections at a time (default: 4096)", GATEWAY),
    ] = None
    max_header_bytes: Annotated[
        int | None,
        flag(
            "max-header-bytes",
            "bytes of an HTTP request's line and headers (default: 65536)",
            GATEWAY,
        ),
    ] = None
    header_timeout_s: Annotated[
        float | None,
        flag(
            "header-timeout-s",
            "seconds for an HTTP request's headers to come (default: 10)",
            GATEWAY,
        ),
    ] = None
    body_timeout_s: Annotated[
        float | None,
        flag("body-timeout-s", "seconds for an HTTP request's body to come (default: 60)", GATEWAY),
    ] = None
    keep_alive_s: Annotated[
        int | None,
        flag("keep-alive-s", "seconds that an HTTP connection may be idle (default: 75)", GATEWAY),
    ] = None
    drain_delay: Annotated[
        float | None,
        flag(
            "drain-delay",
            "seconds after SIGTERM in which /ready says 503 and requests are served (default: 0)",
            GATEWAY,
        ),
    ] = None
    batching: Annotated[
        str | None,
        flag(
            "batching",
            "colocated steps: chunked, prefill-first or decode-first (default: chunked)",
            GATEWAY,
        ),
    ] = None
    prefill_token_budget: Annotated[
        int | None,
        flag(
            "prefill-token-budget",
            "prompt tokens of a chunked colocated step (default: 256)",
            GATEWAY,
        ),
    ] = None
    tool_format: Annotated[
        str | None,
        flag(
            "tool-format",
            "how the model writes calls: auto, hermes, llama, mistral (default: auto)",
            GATEWAY,
        ),
    ] = None
    generation_config: Annotated[
        str | None,
        flag(
            "generation-config",
            "the model's sampling defaults: auto (used) or none (default: auto)",
            GATEWAY,
        ),
    ] = None
    otlp_endpoint: Annotated[
        str | None,
        flag("otlp-endpoint", "collector that traces go to, as http://localhost:4317", GATEWAY),
    ] = None
    trace_sample: Annotated[
        float | None,
        flag(
            "trace-sample",
            "share of the requests that are traced (default: OTEL_TRACES_SAMPLER, or all)",
            GATEWAY,
        ),
    ] = None

    def settings(self) -> FleetSettings:
        """What they ask for. Raises `ConfigError`."""
        from tandem.cli.fleet import FleetSettings
        from tandem.core.address import without_brackets
        from tandem.core.topology import parse_topology

        return FleetSettings(
            topology=parse_topology(self.topology),
            model=self.model,
            device=self.device,
            host=without_brackets(self.host),
            http_port=self.http_port,
            grpc_port=self.grpc_port,
            port_base=self.port_base,
            api_key=self.api_key,
            worker_options=self._options(ALL, WORKERS),
            decode_options=self._options(DECODE),
            gateway_options=self._options(ALL, GATEWAY),
        )

    def _options(self, *panels: str) -> dict[str, str | int | float | None]:
        values = {name: getattr(self, name) for name in passed_on(*panels)}
        return {
            name.replace("_", "-"): str(value) if isinstance(value, Path) else value
            for name, value in values.items()
        }


def passed_on(*panels: str) -> list[str]:
    """The flags of some panels that go on a service's command line."""
    types = get_type_hints(FleetFlags, include_extras=True)
    # The key goes by the environment, where no list of processes shows it.
    return [
        name
        for name, annotated in types.items()
        if annotated.__metadata__[0].rich_help_panel in panels and name != "api_key"
    ]


@takes_flags
def up(flags: FleetFlags) -> None:
    """Start prefill workers, decode workers and the gateway, and keep them running.

    Ends with Ctrl-C; a second Ctrl-C ends it at once. SIGTERM lets answers under way finish.
    """
    from tandem.cli.up import run_up

    run_up(
        flags.settings(),
        log_dir=flags.log_dir,
        verbose=flags.verbose,
        start_timeout_s=flags.start_timeout,
        drain_timeout_s=flags.drain_timeout,
    )


@takes_flags
def doctor(
    flags: FleetFlags,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Say what this machine has, and whether `tandem up` with these flags would work.

    Exit status 1 if something stops it.
    """
    from tandem.cli.doctor.doctor import run_doctor
    from tandem.cli.up import default_logs

    settings = flags.settings()
    logs = None if flags.verbose else flags.log_dir or default_logs(settings)
    run_doctor(settings, logs, as_json=as_json)
