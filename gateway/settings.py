"""The gateway's settings, and what they ask for of its parts."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from gateway.access import Access, KeySources, read_access
from gateway.colocated_policies import colocated_policy
from gateway.discovery import WorkerName
from gateway.http.limits import (
    BODY_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    KEEP_ALIVE_S,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    HttpLimits,
)
from gateway.local_prefill import LocalPrefillMode
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tenants import ONE_TENANT, Tenants
from tandem.core.address import parse_address
from tandem.core.errors import ConfigError
from tandem.core.worker import WorkerRole
from tandem.process.host import MAX_OPEN_FILES, RESERVED_FILES, raise_open_files
from tandem.process.settings import MAX_DRAIN_TIMEOUT_S, Host, ServiceSettings

# Of the first number of a sequence: whichever gateways follow each other, by whatever clocks, none
# repeats another's. All their numbers are exact in a browser, too, which has 53 bits.
FIRST_ID_BITS = 52


class GatewaySettings(ServiceSettings):
    """Settings of the gateway; all have twins in the environment, such as TANDEM_HTTP_PORT."""

    # No prefill workers are some that compute prompts as well.
    kept_if_empty = ServiceSettings.kept_if_empty | {
        "prefill",
        "decode",
        "tenants",
        "api_key",
        "api_keys",
    }

    host: Host = Field("127.0.0.1", description="address to listen on")
    http_port: int = Field(8000, ge=1, le=65535, description="port of the OpenAI API")
    grpc_port: int = Field(50050, ge=1, le=65535, description="port of the gRPC API")
    prefill: str = Field(
        "127.0.0.1:50051",
        description="addresses of the prefill workers, comma-separated; a name may stand for many; "
        "none: decode workers compute the prompts as well (colocated)",
    )
    decode: str = Field("127.0.0.1:50052", description="addresses of the decode workers, likewise")
    model: str = Field("default", description="the workers' model; here, for its tokenizer")
    policy: str = Field(
        "shortest-first",
        description="order in which prompts are prefilled: shortest-first (with ageing), priority "
        "(with ageing), edf (earliest deadline first), fcfs, or an installed package's",
    )
    tenants: Path | None = Field(
        None,
        description="TOML file of tenants, a table each: weight, max_requests, "
        "max_tokens_in_flight; requests name theirs in X-Tandem-Tenant, or their keys do",
    )
    api_key: SecretStr | None = Field(
        None,
        description="whoever asks must have this key, or one of --api-keys; by TANDEM_API_KEY, and "
        "not here, where all users of the machine can read it",
    )
    api_keys: Path | None = Field(
        None,
        description="file of API keys and their tenants, which `tandem keys` writes; changes count "
        "within two seconds",
    )
    local_prefill: LocalPrefillMode = Field(
        "auto",
        description="auto: a decode worker computes short prompts that it is sooner with, any "
        "while nothing runs there, and the last of those that wait for the prefill workers; idle: "
        "only while nothing runs there; both: also what no prefill worker is there for, or "
        "large enough; off: none",
    )
    tpot_target_ms: float | None = Field(
        None,
        gt=0,
        description="milliseconds that a token may take after an answer's first: steps of decode "
        "workers take as many prompt tokens beside running answers as leave them this",
    )
    on_bad_kv: Literal["recompute", "fail"] = Field(
        "recompute",
        description="KV that comes damaged from a prefill worker is computed again, or its request "
        "fails with DATA_LOSS",
    )
    self_check: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the answers that idle decode workers generate once more, to compare "
        "the tokens",
    )
    batching: str = Field(
        "chunked",
        description="colocated workers' steps: chunked, prefill-first or decode-first (static)",
    )
    prefill_token_budget: int = Field(
        256, ge=16, description="prompt tokens of a chunked colocated step"
    )
    max_batch_tokens: int = Field(
        2048, ge=16, description="prompt tokens of a prefill batch; longer prompts go in chunks"
    )
    tool_format: Literal["auto", "hermes", "llama", "mistral"] = Field(
        "auto", description="how the model writes tool calls; auto: as its chat template says"
    )
    generation_config: Literal["auto", "none"] = Field(
        "auto", description="sampling for requests that do not say; auto: the model's own defaults"
    )
    max_queue: int = Field(4096, ge=1, description="requests that may wait; more are refused")
    max_connections: int = Field(
        MAX_CONNECTIONS, ge=1, description="HTTP connections at a time; more are refused"
    )
    max_header_bytes: int = Field(
        MAX_HEADER_BYTES, ge=1024, description="bytes of an HTTP request's line and headers"
    )
    header_timeout_s: float = Field(
        HEADER_TIMEOUT_S, gt=0, description="seconds in which an HTTP request's headers must come"
    )
    body_timeout_s: float = Field(
        BODY_TIMEOUT_S, gt=0, description="seconds in which an HTTP request's body must come"
    )
    keep_alive_s: int = Field(
        KEEP_ALIVE_S,
        ge=1,
        description="seconds that an HTTP connection may be idle; more than a load balancer's",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector that traces go to, by gRPC: http://HOST:4317; so does "
        "OTEL_EXPORTER_OTLP_ENDPOINT; without either nothing is traced",
    )
    trace_sample: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the requests that are traced, of those that bring no traceparent "
        "(default: OTEL_TRACES_SAMPLER, or all)",
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=MAX_DRAIN_TIMEOUT_S,
        description="seconds after SIGTERM, of --drain-timeout, in which /ready says 503 and new "
        "requests are still served, for load balancers to take notice",
    )
    standby: bool = Field(
        False,
        description="leave the workers alone while another gateway controls them, and take over "
        "when it is gone",
    )

    def workers(self) -> list[WorkerName]:
        """Where to look for workers. Raises `ConfigError` if there is no decode worker, an address
        is none, or two share one."""
        prefill = [parse_address(each, "prefill") for each in _parts(self.prefill)]
        decode = [parse_address(each, "decode") for each in _parts(self.decode)]
        if not decode:
            raise ConfigError("the gateway needs at least one decode worker", param="decode")
        if len({*prefill, *decode}) < len(prefill) + len(decode):
            raise ConfigError("an address is named twice among the workers'")
        return [
            *(WorkerName(WorkerRole.PREFILL, address) for address in prefill),
            *(WorkerName(WorkerRole.DECODE, address) for address in decode),
        ]

    def http_limits(self) -> HttpLimits:
        """As the settings ask for them, and as many connections as this process may have. Raises
        `ConfigError` if that is none."""
        num_files = raise_open_files()
        if num_files <= RESERVED_FILES:
            raise ConfigError(
                f"{num_files} files may be open, and a gateway needs {RESERVED_FILES} without its"
                f" clients: ulimit -n {MAX_OPEN_FILES}"
            )
        return HttpLimits(
            max_connections=min(self.max_connections, num_files - RESERVED_FILES),
            max_header_bytes=self.max_header_bytes,
            header_timeout_s=self.header_timeout_s,
            body_timeout_s=self.body_timeout_s,
            keep_alive_s=self.keep_alive_s,
        )

    def read_access(self) -> Access:
        """Who may ask, and who shares the workers. Raises `ConfigError`."""
        return read_access(self.tenants, self.key_sources())

    def key_sources(self) -> KeySources:
        """Where keys come from."""
        key = self.api_key.get_secret_value() if self.api_key is not None else None
        return KeySources(self.api_keys, key)

    def scheduler(self, tenants: Tenants = ONE_TENANT) -> Scheduler:
        """As the settings ask for it. Raises `ConfigError` for a policy that is not known."""
        tpot_target_s = (self.tpot_target_ms or 0.0) / 1e3
        colocated = colocated_policy(
            self.batching, self.max_batch_tokens, self.prefill_token_budget, tpot_target_s
        )
        return Scheduler(
            queue_policy(self.policy),
            Limits(max_batch_tokens=self.max_batch_tokens, max_queue=self.max_queue),
            first_id=secrets.randbits(FIRST_ID_BITS),
            colocated=None if _parts(self.prefill) else colocated,
            local_prefill=self.local_prefill,
            tpot_target_s=tpot_target_s,
            tenants=tenants,
            recompute_bad_kv=self.on_bad_kv == "recompute",
            self_check_rate=self.self_check,
        )


def _parts(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]
